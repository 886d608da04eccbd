#include "backend/sparsity/sinks.h"

#include <gmock/gmock.h>

#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/sparsity/policy.h"
#include "backend/tensor/status.h"
#include "tests/sparsity/cache_walk.h"

namespace thresher {
namespace {

using testing::CacheWalk;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr PolicyShape kShape = {.layers = 2,
                                .heads = 4,
                                .kv_heads = 2,
                                .head_dim = 8,
                                .hidden_size = 32,
                                .ffn_size = 64,
                                .causal = true};

std::shared_ptr<const Policy> Make(std::string_view text) {
  auto policy = Policy::Parse(text, kShape);
  EXPECT_TRUE(policy.ok()) << text << ": " << Message(policy.status());
  return policy.ok() ? *policy : nullptr;
}

std::vector<int32_t> Positions(const CacheRun& run, int32_t slots) {
  std::vector<int32_t> positions;
  run.Positions(slots, &positions);
  return positions;
}

TEST(Sinks, RulesSayThatKeysRotateAndLeave) {
  const auto policy = Make("sinks");
  EXPECT_EQ(policy->name(), "sinks");
  EXPECT_EQ(policy->text(), "sinks:first=4,recent=512");
  EXPECT_FALSE(policy->is_dense());
  const CacheRules rules = policy->cache_rules();
  EXPECT_TRUE(rules.rotate_on_read);
  EXPECT_TRUE(rules.evicts);
  EXPECT_FALSE(rules.wants_prompt_sums);
  EXPECT_EQ(rules.value_keep, 1.0);
  EXPECT_FALSE(policy->StartCache()->WantsSums(0));
  EXPECT_EQ(policy->CacheSlots(1, 100), 100);
  EXPECT_EQ(policy->CacheSlots(1, 100000), 516);
  EXPECT_EQ(policy->CostShare(516), 1.0);
  EXPECT_LT(policy->CostShare(5160), 0.2);
}

TEST(Sinks, ALongPromptLosesItsMiddle) {
  const auto policy = Make("sinks:first=2,recent=3");
  const auto run = policy->StartCache();
  std::vector<std::vector<int32_t>> survivors;
  run->EndPrompt(9, &survivors);
  EXPECT_EQ(survivors.size(), 4u);
  EXPECT_THAT(survivors, Each(ElementsAre(0, 1, 6, 7, 8)));
}

TEST(Sinks, APromptThatFitsStays) {
  const auto policy = Make("sinks:first=2,recent=3");
  const auto run = policy->StartCache();
  std::vector<std::vector<int32_t>> survivors;
  run->EndPrompt(5, &survivors);
  EXPECT_THAT(survivors, IsEmpty());
  std::vector<int32_t> victims;
  run->PlaceNew(4, &victims);
  EXPECT_THAT(victims, IsEmpty());
  EXPECT_THAT(Positions(*run, 5), ElementsAre(0, 1, 2, 3, 4));
}

TEST(Sinks, TheOldestRecentTokenMakesRoomAndTheOthersMoveUp) {
  const auto policy = Make("sinks:first=2,recent=3");
  const auto run = policy->StartCache();
  std::vector<std::vector<int32_t>> survivors;
  run->EndPrompt(5, &survivors);
  const std::vector<std::vector<int32_t>> expected = {
      {0, 1, 4, 2, 3}, {0, 1, 3, 4, 2}, {0, 1, 2, 3, 4}, {0, 1, 4, 2, 3}};
  for (size_t step = 0; step < expected.size(); ++step) {
    std::vector<int32_t> victims;
    run->PlaceNew(5, &victims);
    EXPECT_EQ(victims.size(), 4u);
    EXPECT_THAT(victims, Each(2 + static_cast<int32_t>(step) % 3));
    EXPECT_EQ(Positions(*run, 5), expected[step]);
  }
}

TEST(Sinks, WithoutSinksItIsAWindow) {
  const auto policy = Make("sinks:first=0,recent=1");
  CacheWalk walk(*policy, kShape, 1);
  ASSERT_TRUE(walk.Prompt(std::vector<int32_t>{3}).ok());
  ASSERT_TRUE(walk.Step().ok());
  EXPECT_THAT(walk.held(1, 1), ElementsAre(3));
}

TEST(Sinks, HoldsTheFirstAndTheRecentOnesOfAnyText) {
  std::mt19937 random(4);
  for (int round = 0; round < 100; ++round) {
    const auto first = static_cast<int32_t>(random() % 5);
    const auto recent = static_cast<int32_t>(1 + random() % 9);
    const auto policy =
        Make("sinks:first=" + std::to_string(first) + ",recent=" + std::to_string(recent));
    CacheWalk walk(*policy, kShape, round);
    const auto prompt = static_cast<int32_t>(1 + random() % 20);
    // The walk checks that positions follow the order of the tokens.
    ASSERT_TRUE(walk.Prompt(std::vector<int32_t>{prompt}).ok());
    for (int step = 0; step < 30; ++step) {
      const absl::Status status = walk.Step();
      ASSERT_TRUE(status.ok()) << Message(status);
      const int32_t tokens = walk.tokens();
      std::vector<int32_t> expected;
      for (int32_t t = 0; t < tokens; ++t) {
        if (t < first || t >= tokens - recent) expected.push_back(t);
      }
      for (int32_t layer = 0; layer < 2; ++layer) {
        for (int32_t head = 0; head < 2; ++head) {
          EXPECT_THAT(walk.held(layer, head), ::testing::UnorderedElementsAreArray(expected));
        }
        EXPECT_THAT(walk.reads(layer), IsEmpty());
      }
    }
  }
}

TEST(Sinks, NeedsADecoder) {
  PolicyShape encoder = kShape;
  encoder.causal = false;
  const absl::Status status = Policy::Parse("sinks", encoder).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("sinks: needs a decoder"));
}

}  // namespace
}  // namespace thresher
