#include "backend/device/plan_rows.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

CandidateMask Full(int32_t heads, int32_t queries, int32_t keys) {
  CandidateMask mask(heads, queries, keys);
  for (int32_t h = 0; h < heads; ++h) {
    for (int32_t i = 0; i < queries; ++i) {
      for (int32_t j = 0; j < keys; ++j) mask.set(h, i, j);
    }
  }
  return mask;
}

std::string Error(const SequencePlan& plan, const AttentionExtent& extent) {
  const absl::Status status = CheckPlan(plan, extent);
  if (status.ok()) return "accepted";
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return Message(status);
}

constexpr AttentionExtent kSmall = {.heads = 2, .kv_heads = 2, .queries = 3, .keys = 3};

TEST(CandidateMask, KeepsBitsApartAcrossWords) {
  CandidateMask mask(2, 2, 130);
  EXPECT_EQ(mask.words(), 3);
  mask.set(1, 0, 0);
  mask.set(1, 0, 63);
  mask.set(1, 0, 64);
  mask.set(1, 0, 129);
  EXPECT_TRUE(mask.test(1, 0, 129));
  EXPECT_FALSE(mask.test(1, 1, 129));
  EXPECT_FALSE(mask.test(0, 0, 0));
  EXPECT_EQ(mask.row(1, 0)[0], 0x8000000000000001u);
  EXPECT_EQ(mask.row(1, 0)[2], 2u);
  mask.reset(1, 0, 63);
  EXPECT_EQ(mask.row(1, 0)[0], 1u);
}

TEST(RowsToGenerate, ADensePlanNeedsAll) {
  const GeneratedRows rows = RowsToGenerate({}, kSmall);
  EXPECT_THAT(rows.query, ElementsAre(1, 1, 1, 1, 1, 1));
  EXPECT_THAT(rows.key, Each(1));
  EXPECT_THAT(rows.value, Each(1));
}

TEST(RowsToGenerate, NeedsTheUnionOverQueries) {
  SequencePlan plan;
  plan.candidates.emplace(2, 3, 3);
  for (int32_t i = 0; i < 3; ++i) plan.candidates->set(0, i, i == 2 ? 2 : 0);
  for (int32_t i = 0; i < 3; ++i) plan.candidates->set(1, i, 1);
  const GeneratedRows rows = RowsToGenerate(plan, kSmall);
  EXPECT_THAT(rows.query, Each(1));
  EXPECT_THAT(rows.key, ElementsAre(1, 0, 1, 0, 1, 0));
  EXPECT_THAT(rows.value, ElementsAre(1, 0, 1, 0, 1, 0));
}

TEST(RowsToGenerate, AOneHotQueryNeedsNothingButItsValue) {
  SequencePlan plan;
  plan.candidates = Full(2, 3, 3);
  plan.one_hot = {2, 2, 2, -1, 0, 0};
  for (int32_t j = 1; j < 3; ++j) plan.candidates->reset(1, 0, j);
  const GeneratedRows rows = RowsToGenerate(plan, kSmall);
  EXPECT_THAT(rows.query, ElementsAre(0, 0, 0, 1, 0, 0));
  EXPECT_THAT(rows.key, ElementsAre(0, 0, 0, 1, 0, 0));
  EXPECT_THAT(rows.value, ElementsAre(0, 0, 1, 1, 0, 0));
}

TEST(RowsToGenerate, DroppedHeadsNeedNothing) {
  SequencePlan plan;
  plan.heads = {{1}};
  const GeneratedRows rows = RowsToGenerate(plan, kSmall);
  EXPECT_THAT(rows.query, ElementsAre(0, 0, 0, 1, 1, 1));
  EXPECT_THAT(rows.key, ElementsAre(0, 0, 0, 1, 1, 1));
}

TEST(RowsToGenerate, SharedKeysAreNeededIfAnyOfTheirHeadsNeedsThem) {
  const AttentionExtent extent = {.heads = 4, .kv_heads = 2, .queries = 2, .keys = 2};
  SequencePlan plan;
  plan.candidates.emplace(4, 2, 2);
  for (int32_t h = 0; h < 4; ++h) {
    for (int32_t i = 0; i < 2; ++i) plan.candidates->set(h, i, h == 1 ? 1 : 0);
  }
  const GeneratedRows rows = RowsToGenerate(plan, extent);
  EXPECT_THAT(rows.key, ElementsAre(1, 1, 1, 0));
}

TEST(RowsToGenerate, ACausalDecodeStepSeesThePast) {
  const AttentionExtent extent = {
      .heads = 1, .kv_heads = 1, .queries = 2, .keys = 4, .causal = true};
  EXPECT_EQ(extent.visible(0), 3);
  EXPECT_EQ(extent.visible(1), 4);
  SequencePlan plan;
  plan.one_hot = {-1, 3};
  const GeneratedRows rows = RowsToGenerate(plan, extent);
  EXPECT_THAT(rows.key, ElementsAre(1, 1, 1, 0));
  EXPECT_THAT(rows.value, ElementsAre(1, 1, 1, 1));
}

TEST(CheckPlan, AcceptsWhatFits) {
  EXPECT_EQ(Error({}, kSmall), "accepted");
  SequencePlan plan;
  plan.heads = {{0, 1}};
  plan.candidates = Full(2, 3, 3);
  plan.one_hot.assign(6, -1);
  plan.value_keep = 0.01;
  plan.quantization.emplace();
  plan.ffn_low_precision.assign(3, 1);
  EXPECT_EQ(Error(plan, kSmall), "accepted");
}

TEST(CheckPlan, NamesTheFieldThatDoesNotFit) {
  const auto error = [](auto change) {
    SequencePlan plan;
    change(plan);
    return Error(plan, kSmall);
  };
  EXPECT_THAT(error([](auto& p) { p.heads.emplace(); }), HasSubstr("plan.heads"));
  EXPECT_THAT(error([](auto& p) { p.heads = {{0, 2}}; }), HasSubstr("plan.heads[1]"));
  EXPECT_THAT(error([](auto& p) { p.heads = {{1, 0}}; }), HasSubstr("plan.heads[1]"));
  EXPECT_THAT(error([](auto& p) { p.heads = {{-1}}; }), HasSubstr("plan.heads[0]"));
  EXPECT_THAT(error([](auto& p) { p.candidates = Full(2, 3, 4); }), HasSubstr("plan.candidates"));
  EXPECT_THAT(error([](auto& p) { p.candidates.emplace(2, 3, 3); }), HasSubstr("no candidate"));
  EXPECT_THAT(error([](auto& p) { p.one_hot = {1}; }), HasSubstr("plan.one_hot"));
  EXPECT_THAT(error([](auto& p) { p.one_hot.assign(6, 3); }), HasSubstr("plan.one_hot"));
  EXPECT_THAT(error([](auto& p) { p.value_keep = 0; }), HasSubstr("plan.value_keep"));
  EXPECT_THAT(error([](auto& p) { p.value_keep = std::numeric_limits<double>::quiet_NaN(); }),
              HasSubstr("plan.value_keep"));
  EXPECT_THAT(error([](auto& p) { p.quantization = {1, 4, 0.1}; }), HasSubstr("1+4 bits"));
  EXPECT_THAT(error([](auto& p) {
                p.quantization = {INT32_MAX, INT32_MAX, 0.1};
              }),
              HasSubstr("bits"));
  EXPECT_THAT(error([](auto& p) { p.quantization = {6, 4, 2}; }), HasSubstr("threshold"));
  EXPECT_THAT(error([](auto& p) { p.ffn_low_precision = {1}; }),
              HasSubstr("plan.ffn_low_precision"));
}

TEST(CheckPlan, CausalCandidatesMustBeInSight) {
  AttentionExtent extent = kSmall;
  extent.causal = true;
  SequencePlan plan;
  plan.candidates.emplace(2, 3, 3);
  for (int32_t h = 0; h < 2; ++h) {
    for (int32_t i = 0; i < 3; ++i) plan.candidates->set(h, i, 1);
  }
  // Query 0 sees key 0 alone.
  EXPECT_THAT(Error(plan, extent), HasSubstr("head 0, query 0: no candidate"));
  plan.one_hot = {1, -1, -1, 0, -1, -1};
  EXPECT_THAT(Error(plan, extent), HasSubstr("the query sees 1 keys"));
}

TEST(CheckPlan, NamesTheRuleThatIsOutOfRange) {
  const auto error = [](auto change) {
    SequencePlan plan;
    change(plan);
    return Error(plan, kSmall);
  };
  const float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_THAT(error([](auto& plan) { plan.value_threshold = 1.5; }), HasSubstr("value_threshold"));
  EXPECT_THAT(error([](auto& plan) { plan.value_threshold = std::nan(""); }),
              HasSubstr("value_threshold"));
  using Calibration = AttentionCalibration;
  EXPECT_EQ(error([](auto& plan) { plan.calibration = Calibration{.heads = {0, 1}}; }), "accepted");
  EXPECT_THAT(error([](auto& plan) { plan.calibration = Calibration{.heads = {2}}; }),
              HasSubstr("plan.calibration.heads[0]: 2"));
  EXPECT_THAT(error([](auto& plan) {
                plan.calibration = Calibration{.heads = {1, 1}};
              }),
              HasSubstr("plan.calibration.heads[1]"));
  EXPECT_THAT(error([](auto& plan) { plan.calibration = Calibration{.threshold = -1}; }),
              HasSubstr("plan.calibration.threshold"));
  EXPECT_THAT(error([](auto& plan) { plan.calibration = Calibration{.beta = 1.1}; }),
              HasSubstr("plan.calibration.beta"));
  EXPECT_EQ(error([](auto& plan) { plan.token_sizes = {1, 2, 1}; }), "accepted");
  EXPECT_THAT(error([](auto& plan) { plan.token_sizes = {1, 2}; }), HasSubstr("2 entries"));
  EXPECT_THAT(error([](auto& plan) {
                plan.token_sizes = {1, 0.5, 1};
              }),
              HasSubstr("plan.token_sizes[1]: 0.5"));
  EXPECT_THAT(error([&](auto& plan) {
                plan.token_sizes = {1, 1, kInfinity};
              }),
              HasSubstr("plan.token_sizes[2]"));
}

}  // namespace
}  // namespace thresher
