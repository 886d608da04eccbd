#include "backend/sparsity/quest.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "backend/sparsity/policy.h"
#include "backend/tensor/status.h"
#include "tests/sparsity/cache_walk.h"

namespace thresher {
namespace {

using testing::CacheWalk;
using ::testing::HasSubstr;

constexpr PolicyShape kShape = {.layers = 4,
                                .heads = 4,
                                .kv_heads = 2,
                                .head_dim = 8,
                                .hidden_size = 32,
                                .ffn_size = 128,
                                .causal = true};

std::shared_ptr<const Policy> Make(std::string_view text) {
  auto policy = Policy::Parse(text, kShape);
  EXPECT_TRUE(policy.ok()) << text << ": " << Message(policy.status());
  return policy.ok() ? *policy : nullptr;
}

TEST(Quest, RulesSayThatKeysHaveBoundsAndNothingLeaves) {
  const auto policy = Make("quest:keep=0.25");
  EXPECT_EQ(policy->name(), "quest");
  EXPECT_EQ(policy->text(), "quest:keep=0.25,page=16,whole=2");
  EXPECT_EQ(Make("quest")->text(), "quest:budget=1024,page=16,whole=2");
  const CacheRules rules = policy->cache_rules();
  EXPECT_EQ(rules.stretch, 16);
  EXPECT_FALSE(rules.evicts || rules.wants_prompt_sums || rules.rotate_on_read || rules.planes);
  EXPECT_FALSE(policy->StartCache()->WantsSums(3));
  EXPECT_EQ(policy->CacheSlots(10, 100), 100);
}

TEST(Quest, ASharePicksPagesAndTheFirstLayersReadAll) {
  const auto policy = Make("quest:keep=0.25");
  const auto run = policy->StartCache();
  for (const int32_t layer : {0, 1}) EXPECT_EQ(run->StretchesToRead(layer, 1000), 0);
  for (const int32_t layer : {2, 3}) {
    EXPECT_EQ(run->StretchesToRead(layer, 1000), 16);  // ceil(250 / 16) of 63.
    EXPECT_EQ(run->StretchesToRead(layer, 1024), 16);
    EXPECT_EQ(run->StretchesToRead(layer, 1025), 17);
    EXPECT_EQ(run->StretchesToRead(layer, 65), 3);  // At least three, of five.
    EXPECT_EQ(run->StretchesToRead(layer, 49), 3);
    EXPECT_EQ(run->StretchesToRead(layer, 48), 0);  // Three are all.
    EXPECT_EQ(run->StretchesToRead(layer, 1), 0);
  }
}

TEST(Quest, ABudgetIsANumberOfTokens) {
  const auto policy = Make("quest:budget=100,page=8,whole=0");
  const auto run = policy->StartCache();
  EXPECT_EQ(run->StretchesToRead(0, 96), 0);
  EXPECT_EQ(run->StretchesToRead(0, 97), 12);
  EXPECT_EQ(run->StretchesToRead(0, 10000), 12);
}

TEST(Quest, DenseIsWithoutBounds) {
  for (const char* text : {"quest:keep=1", "quest:keep=0.1,whole=4"}) {
    const auto policy = Make(text);
    EXPECT_TRUE(policy->is_dense()) << text;
    EXPECT_EQ(policy->cache_rules().stretch, 0) << text;
    EXPECT_EQ(policy->StartCache()->StretchesToRead(3, 1000), 0) << text;
    EXPECT_EQ(policy->CostShare(500), 1.0) << text;
  }
  EXPECT_FALSE(Make("quest:keep=0.1,whole=3")->is_dense());
}

TEST(Quest, CostFallsWithTheShareAndBoundsCount) {
  double last = 1.0;
  for (const char* keep : {"0.8", "0.5", "0.25", "0.1"}) {
    const double share = Make(std::string("quest:keep=") + keep)->CostShare(4000);
    EXPECT_LT(share, last);
    last = share;
  }
  EXPECT_GT(Make("quest:keep=0.1,page=4")->CostShare(4000),
            Make("quest:keep=0.1,page=32")->CostShare(4000));
}

TEST(Quest, SaysWhatIsWrong) {
  const auto refusal = [](std::string_view text, const PolicyShape& shape) {
    return Message(Policy::Parse(text, shape).status());
  };
  EXPECT_THAT(refusal("quest:page=5", kShape), HasSubstr("expected one of 4, 8, 16, 32"));
  EXPECT_THAT(refusal("quest:keep=0", kShape), HasSubstr("keep"));
  EXPECT_THAT(refusal("quest:keep=0.5,budget=64", kShape), HasSubstr("contradict"));
  PolicyShape encoder = kShape;
  encoder.causal = false;
  EXPECT_THAT(refusal("quest", encoder), HasSubstr("quest: needs a decoder"));
}

TEST(Quest, LeadsATextWithoutEvicting) {
  const auto policy = Make("quest:keep=0.3,page=4");
  CacheWalk walk(*policy, kShape, 3);
  ASSERT_TRUE(walk.Prompt(std::vector<int32_t>{10, 7}).ok());
  for (int step = 0; step < 40; ++step) {
    const absl::Status status = walk.Step();
    ASSERT_TRUE(status.ok()) << Message(status);
    EXPECT_EQ(walk.slots(), walk.tokens());
  }
}

}  // namespace
}  // namespace thresher
