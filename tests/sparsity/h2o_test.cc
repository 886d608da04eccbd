#include "backend/sparsity/h2o.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/sparsity/policy.h"
#include "backend/tensor/status.h"
#include "tests/sparsity/cache_walk.h"

namespace thresher {
namespace {

using testing::CacheWalk;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

PolicyShape Shape(int32_t layers, int32_t kv_heads) {
  return {.layers = layers,
          .heads = 2 * kv_heads,
          .kv_heads = kv_heads,
          .head_dim = 8,
          .hidden_size = 16 * kv_heads,
          .ffn_size = 64 * kv_heads,
          .causal = true};
}

std::shared_ptr<const Policy> Make(std::string_view text, const PolicyShape& shape) {
  auto policy = Policy::Parse(text, shape);
  EXPECT_TRUE(policy.ok()) << text << ": " << Message(policy.status());
  return policy.ok() ? *policy : nullptr;
}

std::vector<int32_t> Place(CacheRun& run, int32_t slots) {
  std::vector<int32_t> victims;
  run.PlaceNew(slots, &victims);
  return victims;
}

TEST(H2o, RulesSayThatTokensLeaveAndSumsAreWanted) {
  const auto policy = Make("h2o", Shape(2, 2));
  EXPECT_EQ(policy->name(), "h2o");
  EXPECT_EQ(policy->text(), "h2o:heavy=0.1,recent=0.1,first=1");
  EXPECT_TRUE(policy->cache_rules().evicts);
  EXPECT_TRUE(policy->cache_rules().wants_prompt_sums);
  EXPECT_FALSE(policy->cache_rules().rotate_on_read);
  EXPECT_TRUE(policy->StartCache()->WantsSums(1));
}

TEST(H2o, SharesRoundUpAndGrowWithTheText) {
  const auto policy = Make("h2o:heavy=0.1,recent=0.2", Shape(1, 1));
  EXPECT_EQ(policy->CacheSlots(1, 1), 1);
  EXPECT_EQ(policy->CacheSlots(1, 2), 2);
  EXPECT_EQ(policy->CacheSlots(1, 10), 3);
  EXPECT_EQ(policy->CacheSlots(1, 11), 5);
  EXPECT_EQ(policy->CacheSlots(1, 1000), 300);
  EXPECT_EQ(Make("h2o:heavy=0.1,recent=0.2,first=7", Shape(1, 1))->CacheSlots(1, 20), 11);
}

TEST(H2o, APromptKeepsItsHeaviestAndItsEnd) {
  const auto policy = Make("h2o:heavy=0.3,recent=0.2", Shape(1, 2));
  const auto run = policy->StartCache();
  run->AddSums(0, 10,
               std::vector<int64_t>{0,
                                    1,
                                    9,
                                    1,
                                    1,
                                    8,
                                    1,
                                    7,
                                    99,
                                    99,
                                    /*second head*/ 0,
                                    5,
                                    1,
                                    6,
                                    1,
                                    6,
                                    1,
                                    1,
                                    99,
                                    99});
  std::vector<std::vector<int32_t>> survivors;
  run->EndPrompt(10, &survivors);
  // Position 0 is one of the three heavy ones; the recent ones are beside them.
  EXPECT_THAT(survivors, ElementsAre(ElementsAre(0, 2, 5, 8, 9), ElementsAre(0, 3, 5, 8, 9)));
}

TEST(H2o, TheLightestLeavesBeforeTheNewTokenAttends) {
  const auto policy = Make("h2o:heavy=0.3,recent=0.2", Shape(1, 1));
  const auto run = policy->StartCache();
  run->AddSums(0, 10, std::vector<int64_t>{0, 1, 9, 1, 1, 8, 1, 7, 3, 99});
  std::vector<std::vector<int32_t>> survivors;
  run->EndPrompt(10, &survivors);
  ASSERT_THAT(survivors, ElementsAre(ElementsAre(0, 2, 5, 8, 9)));
  // 11 tokens: 4 heavy ones and 3 recent ones: two slots more, one a step.
  EXPECT_THAT(Place(*run, 5), IsEmpty());
  run->AddSums(0, 6, std::vector<int64_t>{0, 0, 1, 0, 0, 2});
  EXPECT_THAT(Place(*run, 6), IsEmpty());
  run->AddSums(0, 7, std::vector<int64_t>{0, 0, 0, 0, 0, 0, 1});
  // 13 tokens: 10, 11 and the new one are recent; of 0 (protected), 2, 5, 8, 9 the lightest is 8.
  EXPECT_THAT(Place(*run, 7), ElementsAre(3));
  run->AddSums(0, 7, std::vector<int64_t>{0, 0, 0, 50, 0, 0, 0});
  // 14 tokens: heavy 5, a slot more.
  EXPECT_THAT(Place(*run, 7), IsEmpty());
  // 15 tokens: recent are 12 (in slot 3), 13 and 14; token 11 with a sum of 1 is the lightest.
  EXPECT_THAT(Place(*run, 8), ElementsAre(6));
}

TEST(H2o, OfEqualsTheLatestLeaves) {
  const auto policy = Make("h2o:heavy=0.3,recent=0.1", Shape(1, 1));
  const auto run = policy->StartCache();
  run->AddSums(0, 8, std::vector<int64_t>{5, 5, 5, 5, 5, 5, 5, 5});
  std::vector<std::vector<int32_t>> survivors;
  run->EndPrompt(8, &survivors);
  EXPECT_THAT(survivors, ElementsAre(ElementsAre(0, 1, 2, 7)));
  EXPECT_THAT(Place(*run, 4), ElementsAre(3));  // 7, no longer recent.
  run->AddSums(0, 4, std::vector<int64_t>{0, 0, 0, 5});
  EXPECT_THAT(Place(*run, 4), ElementsAre(3));  // 8, likewise.
}

TEST(H2o, EachHeadHasItsOwnVictim) {
  const auto policy = Make("h2o:heavy=0.4,recent=0.1,first=0", Shape(1, 2));
  const auto run = policy->StartCache();
  run->AddSums(0, 5, std::vector<int64_t>{9, 1, 9, 1, 1, /*second head*/ 1, 9, 1, 9, 1});
  std::vector<std::vector<int32_t>> survivors;
  run->EndPrompt(5, &survivors);
  ASSERT_THAT(survivors, ElementsAre(ElementsAre(0, 2, 4), ElementsAre(1, 3, 4)));
  EXPECT_THAT(Place(*run, 3), IsEmpty());
  run->AddSums(0, 4, std::vector<int64_t>{0, 0, 0, 5, /*second head*/ 0, 0, 20, 2});
  EXPECT_THAT(Place(*run, 4), ElementsAre(2, 3));
  // Token 6 is in different slots now, and so are those after it counted.
  run->AddSums(0, 4, std::vector<int64_t>{0, 0, 4, 0, /*second head*/ 0, 0, 0, 30});
  EXPECT_THAT(Place(*run, 4), IsEmpty());
  run->AddSums(0, 5, std::vector<int64_t>{0, 0, 0, 0, 8, /*second head*/ 0, 0, 0, 0, 10});
  EXPECT_THAT(Place(*run, 5), ElementsAre(2, 1));
}

TEST(H2o, SharesThatMakeOneAreDense) {
  EXPECT_TRUE(Make("h2o:heavy=0.7,recent=0.3", Shape(1, 1))->is_dense());
  EXPECT_TRUE(Make("h2o:heavy=1", Shape(1, 1))->is_dense());
  EXPECT_FALSE(Make("h2o:heavy=0.7,recent=0.2", Shape(1, 1))->is_dense());
  const auto policy = Make("h2o:heavy=0.7,recent=0.3", Shape(1, 1));
  for (int32_t tokens = 0; tokens < 2000; ++tokens) {
    ASSERT_EQ(policy->CacheSlots(1, tokens), tokens);
  }
}

TEST(H2o, NeedsADecoder) {
  PolicyShape encoder = Shape(1, 1);
  encoder.causal = false;
  const absl::Status status = Policy::Parse("h2o:heavy=0.2", encoder).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("h2o: needs a decoder"));
}

TEST(H2o, HoldsItsPromisesOnRandomSums) {
  std::mt19937 random(5);
  const std::vector<std::string> shares = {"0.05", "0.1", "0.25", "0.5"};
  for (int round = 0; round < 100; ++round) {
    const PolicyShape shape = Shape(2, 1 + round % 3);
    const std::string heavy = shares[random() % shares.size()];
    const std::string recent = shares[random() % shares.size()];
    const auto first = static_cast<int32_t>(random() % 4);
    const auto policy =
        Make("h2o:heavy=" + heavy + ",recent=" + recent + ",first=" + std::to_string(first), shape);
    const auto prompt = static_cast<int32_t>(1 + random() % 40);
    const auto cut = static_cast<int32_t>(random() % prompt);
    CacheWalk whole(*policy, shape, round);
    CacheWalk cuts(*policy, shape, round);
    ASSERT_TRUE(whole.Prompt(std::vector<int32_t>{prompt}).ok());
    std::vector<int32_t> chunks = {prompt - cut};
    for (int32_t t = 0; t < cut; ++t) chunks.push_back(1);
    ASSERT_TRUE(cuts.Prompt(chunks).ok());
    // [layer][head]: what is held.
    std::vector<std::set<int32_t>> before;
    for (int32_t layer = 0; layer < shape.layers; ++layer) {
      for (int32_t head = 0; head < shape.kv_heads; ++head) {
        const auto& held = whole.held(layer, head);
        before.emplace_back(held.begin(), held.end());
      }
    }
    EXPECT_EQ(whole.slots(), policy->CacheSlots(prompt, prompt));
    for (int step = 0; step < 60; ++step) {
      // The walk checks that the room is never exceeded.
      ASSERT_TRUE(whole.Step().ok());
      ASSERT_TRUE(cuts.Step().ok());
      const int32_t tokens = whole.tokens();
      const auto window = static_cast<int32_t>(KeepCount(tokens, std::stod(recent)));
      for (int32_t layer = 0; layer < shape.layers; ++layer) {
        for (int32_t head = 0; head < shape.kv_heads; ++head) {
          EXPECT_EQ(whole.held(layer, head), cuts.held(layer, head));
          const auto& held = whole.held(layer, head);
          const std::set<int32_t> now(held.begin(), held.end());
          EXPECT_EQ(now.size(), held.size()) << "a token twice";
          for (int32_t t = 0; t < std::min(first, tokens); ++t) EXPECT_TRUE(now.count(t)) << t;
          for (int32_t t = std::max(0, tokens - window); t < tokens; ++t) {
            EXPECT_TRUE(now.count(t)) << t << " of " << tokens;
          }
          std::set<int32_t>& earlier = before[layer * shape.kv_heads + head];
          for (const int32_t t : now) EXPECT_TRUE(t == tokens - 1 || earlier.count(t)) << t;
          earlier = now;
        }
      }
    }
    EXPECT_LE(policy->CacheSlots(prompt, whole.tokens()) - whole.slots(), 1);
  }
}

}  // namespace
}  // namespace thresher
