// Speculation on zeros of a ReLU as a policy: its text, its plan, and whom it refuses. What the
// rule does is tests/model/inner_layer_test.cc's.
#include "backend/sparsity/relu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

using ::testing::HasSubstr;

constexpr PolicyShape Shape(bool causal, bool relu = true) {
  return {.layers = 2,
          .heads = 2,
          .kv_heads = 2,
          .head_dim = 4,
          .hidden_size = 8,
          .ffn_size = 16,
          .relu = relu,
          .causal = causal};
}

std::shared_ptr<const Policy> Make(std::string_view text, const PolicyShape& shape) {
  auto policy = Policy::Parse(text, shape);
  EXPECT_TRUE(policy.ok()) << text << ": " << Message(policy.status());
  return policy.ok() ? *policy : nullptr;
}

std::string Refusal(std::string_view text, const PolicyShape& shape) {
  const absl::Status status = Policy::Parse(text, shape).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return Message(status);
}

TEST(Relu, TextsAreCompleteAndStable) {
  for (const bool causal : {false, true}) {
    const auto policy = Make("relu", Shape(causal));
    EXPECT_EQ(policy->text(), "relu:bits=4,margin=0");
    EXPECT_EQ(policy->name(), "relu");
    EXPECT_FALSE(policy->is_dense());
    EXPECT_EQ(policy->CostShare(100), 1.0);
    EXPECT_EQ(Make("relu:margin=.25,bits=8", Shape(causal))->text(), "relu:bits=8,margin=0.25");
    EXPECT_EQ(Make("relu:margin=.25,bits=8", Shape(causal))->speculation(),
              (ZeroSpeculation{.bits = 8, .margin = 0.25}));
  }
}

TEST(Relu, IsRefusedWithTheReason) {
  EXPECT_THAT(Refusal("relu", Shape(false, false)), HasSubstr("activation is another one"));
  EXPECT_THAT(Refusal("relu", Shape(true, false)), HasSubstr("relu: needs a feed-forward network"));
  EXPECT_THAT(Refusal("relu:bits=6", Shape(true)), HasSubstr("bits"));
  EXPECT_THAT(Refusal("relu:margin=1000.5", Shape(true)), HasSubstr("margin"));
  EXPECT_THAT(Refusal("relu:margin=-1", Shape(true)), HasSubstr("margin"));
  EXPECT_THAT(Refusal("relu+h2o", Shape(true)), HasSubstr("2 parts joined by +"));
}

TEST(Relu, PlansOfEveryLayerSayTheRule) {
  for (const std::string_view text :
       {"relu:bits=8,margin=0.5", "spatten:final=0.5+relu:bits=8,margin=0.5"}) {
    const auto policy = Make(text, Shape(false));
    const auto run = policy->Start(3, {});
    for (int32_t layer = 0; layer < 2; ++layer) {
      SequencePlan plan;
      const int32_t positions[] = {0, 1, 2};
      run->BeforeProjection(layer, positions, nullptr, &plan);
      EXPECT_EQ(plan.speculation, policy->speculation());
      EXPECT_EQ(plan.speculation, (ZeroSpeculation{.bits = 8, .margin = 0.5}));
    }
  }
}

TEST(Relu, ADecodersCacheStaysWhole) {
  const auto policy = Make("relu", Shape(true));
  EXPECT_FALSE(policy->cache_rules().evicts);
  EXPECT_EQ(policy->CacheSlots(10, 30), 30);
  std::vector<int32_t> reads;
  policy->StartCache()->ChooseReads(0, 20, &reads);
  EXPECT_TRUE(reads.empty());
}

}  // namespace
}  // namespace thresher
