#include "backend/sparsity/policy.h"

#include <gmock/gmock.h>

#include <numeric>
#include <vector>

#include "backend/device/plan_rows.h"
#include "backend/tensor/status.h"
#include "tests/sparsity/given_scores.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr PolicyShape kShape = {
    .layers = 3, .heads = 2, .kv_heads = 2, .head_dim = 8, .hidden_size = 16, .ffn_size = 64};

std::shared_ptr<const Policy> Make(std::string_view text) {
  auto policy = Policy::Parse(text, kShape);
  EXPECT_TRUE(policy.ok()) << text << ": " << Message(policy.status());
  return policy.ok() ? *policy : nullptr;
}

TEST(Policy, DenseLeavesThePlanAlone) {
  const auto policy = Make("dense");
  EXPECT_EQ(policy->text(), "dense");
  EXPECT_EQ(policy->name(), "dense");
  EXPECT_TRUE(policy->is_dense());
  EXPECT_FALSE(policy->prediction().wanted());
  EXPECT_EQ(policy->CostShare(77), 1.0);
  const auto run = policy->Start(2, {});
  const std::vector<int32_t> positions = {0, 1};
  SequencePlan plan;
  run->BeforeProjection(0, positions, nullptr, &plan);
  EXPECT_EQ(plan, SequencePlan());
  CascadeDecision decision = {.rows = {0, 1}, .heads = {0, 1}};
  run->AfterAttention(0, positions, {}, &decision);
  EXPECT_THAT(decision.rows, ElementsAre(0, 1));
}

TEST(Policy, TextAndNameAreThoseOfTheParts) {
  EXPECT_EQ(Make("spatten:keep=0.6")->name(), "spatten");
  const auto both = Make("spatten:keep=0.6+fact:topk=0.25");
  EXPECT_EQ(both->name(), "spatten+fact");
  EXPECT_EQ(both->text(),
            "spatten:keep=0.6,schedule=ramp,heads=1,values=1,bits=off,importance=attention,"
            "protect=model,first=0+fact:topk=0.25,threshold=0,ffn=1,qskip=off,bits=8");
  EXPECT_EQ(Make(both->text())->text(), both->text());
  EXPECT_EQ(Make("fact:topk=0.25+spatten:keep=0.6")->name(), "fact+spatten");
}

TEST(Policy, ACompositionIsDenseIfAllPartsAre) {
  EXPECT_TRUE(Make("spatten+fact")->is_dense());
  EXPECT_FALSE(Make("spatten:keep=0.9+fact")->is_dense());
  EXPECT_FALSE(Make("spatten:keep=0.9+fact")->prediction().wanted());
  EXPECT_TRUE(Make("spatten+fact:topk=0.5,bits=4")->prediction().wanted());
  EXPECT_EQ(Make("spatten+fact:topk=0.5,bits=4")->prediction().bits, 4);
}

TEST(Policy, PartsAddToOnePlan) {
  const auto policy = Make("spatten:keeps=1/0.5/0.5,values=0.5+fact:topk=0.5,ffn=0.5");
  const auto run = policy->Start(4, std::vector<int32_t>{0});
  std::vector<int32_t> positions = {0, 1, 2, 3};
  const std::vector<float> scores = {4, 3, 2, 1, 4, 3, 2, 1, 1, 2, 3, 4, 1, 2, 3, 4};
  std::vector<ConstMatrix> heads(2, ConstMatrix(scores.data(), 4, 4));
  const testing::GivenScores prediction(heads);
  SequencePlan plan;
  run->BeforeProjection(0, positions, &prediction, &plan);
  EXPECT_EQ(plan.value_keep, 0.5);
  EXPECT_TRUE(plan.wanted.column_sums);
  ASSERT_TRUE(plan.candidates.has_value());
  EXPECT_TRUE(plan.candidates->test(1, 0, 0));
  EXPECT_FALSE(plan.candidates->test(1, 0, 2));
  EXPECT_THAT(plan.ffn_low_precision, ElementsAre(0, 0, 1, 1));

  const AttentionRecord record = {.column_sums = {1, 2, 3, 2}};
  CascadeDecision decision = {.rows = {0, 1, 2, 3}, .heads = {0, 1}};
  run->AfterAttention(0, positions, record, &decision);
  EXPECT_THAT(decision.rows, ElementsAre(0, 2));

  // In the next layer both see the two survivors.
  positions = {0, 2};
  heads.assign(2, ConstMatrix(scores.data(), 2, 2));
  const testing::GivenScores next(heads);
  plan = {};
  run->BeforeProjection(1, positions, &next, &plan);
  EXPECT_EQ(plan.candidates->keys(), 2);
  EXPECT_EQ(plan.ffn_low_precision.size(), 2u);
  EXPECT_TRUE(CheckPlan(plan, {.heads = 2, .kv_heads = 2, .queries = 2, .keys = 2}).ok());
}

TEST(Policy, ADecisionIsOnlyNarrowed) {
  const auto policy = Make("spatten:keeps=1/0.5/0.5,protect=none");
  const auto run = policy->Start(4, {});
  const std::vector<int32_t> positions = {0, 1, 2, 3};
  // An earlier part has dropped row 3, the most important one.
  CascadeDecision decision = {.rows = {0, 1, 2}, .heads = {0, 1}};
  run->AfterAttention(0, positions, {.column_sums = {1, 2, 3, 9}}, &decision);
  EXPECT_THAT(decision.rows, ElementsAre(1, 2));
  // And one that already left less than the schedule asks for is left alone.
  decision = {.rows = {0}, .heads = {1}};
  run->AfterAttention(1, positions, {}, &decision);
  EXPECT_THAT(decision.rows, ElementsAre(0));
  EXPECT_THAT(decision.heads, ElementsAre(1));
}

TEST(Policy, CostSharesMultiply) {
  const double spatten = Make("spatten:keep=0.6")->CostShare(100);
  EXPECT_DOUBLE_EQ(Make("spatten:keep=0.6+fact")->CostShare(100), spatten);
  for (const char* text : {"dense", "spatten:final=0.001,heads=0.1", "fact:topk=0.01,ffn=0.01",
                           "spatten:final=0.001+fact:topk=0.1,ffn=0.1"}) {
    for (const int32_t tokens : {0, 1, 7, 100000}) {
      EXPECT_GT(Make(text)->CostShare(tokens), 0.0) << text;
      EXPECT_LE(Make(text)->CostShare(tokens), 1.0) << text;
    }
  }
}

TEST(Policy, ADecoderTakesOnePolicyThatIsForIt) {
  PolicyShape decoder = kShape;
  decoder.causal = true;
  const auto refusal = [&](std::string_view text, const PolicyShape& shape) {
    const absl::Status status = Policy::Parse(text, shape).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    return Message(status);
  };
  EXPECT_THAT(refusal("fact:topk=0.5", decoder),
              HasSubstr("fact: needs an encoder; this model is a decoder"));
  EXPECT_THAT(refusal("spatten:keep=0.6+fact", decoder), HasSubstr("fact: needs an encoder"));
  EXPECT_THAT(refusal("spatten:keep=0.6+sinks", decoder), HasSubstr("2 parts joined by +"));
  EXPECT_THAT(refusal("spatten:keep=0.6+sinks", kShape), HasSubstr("sinks: needs a decoder"));
  EXPECT_THAT(refusal("h2o", kShape), HasSubstr("h2o: needs a decoder"));
  for (const char* text : {"dense", "spatten:keep=0.6", "sinks", "h2o"}) {
    EXPECT_TRUE(Policy::Parse(text, decoder).ok()) << text;
  }
}

TEST(Policy, DenseLeavesADecodersCacheAlone) {
  PolicyShape decoder = kShape;
  decoder.causal = true;
  const auto policy = *Policy::Parse("dense", decoder);
  const CacheRules rules = policy->cache_rules();
  EXPECT_FALSE(rules.planes || rules.rotate_on_read || rules.evicts || rules.wants_prompt_sums);
  EXPECT_EQ(rules.value_keep, 1.0);
  EXPECT_EQ(policy->CacheSlots(7, 77), 77);
  const auto run = policy->StartCache();
  EXPECT_FALSE(run->WantsSums(0));
  std::vector<std::vector<int32_t>> survivors;
  run->EndPrompt(3, &survivors);
  EXPECT_TRUE(survivors.empty());
  std::vector<int32_t> slots;
  run->PlaceNew(3, &slots);
  run->ChooseReads(0, 4, &slots);
  EXPECT_TRUE(slots.empty());
  run->Positions(4, &slots);
  EXPECT_THAT(slots, ElementsAre(0, 1, 2, 3));
}

TEST(Policy, ErrorsNameThePart) {
  EXPECT_THAT(Message(Policy::Parse("spatten:keep=0.6+fact:topk=2", kShape).status()),
              HasSubstr("fact: topk='2': expected (0, 1]"));
  EXPECT_EQ(Policy::Parse("magic", kShape).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Policy::Parse("dense", {}).ok());
}

}  // namespace
}  // namespace thresher
