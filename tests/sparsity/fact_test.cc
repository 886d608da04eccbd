#include "backend/sparsity/fact.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "backend/device/plan_rows.h"
#include "backend/device/top_k.h"
#include "backend/sparsity/policy.h"
#include "backend/tensor/status.h"
#include "tests/sparsity/given_scores.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

PolicyShape Shape(int32_t heads) {
  return {.layers = 2,
          .heads = heads,
          .kv_heads = heads,
          .head_dim = 8,
          .hidden_size = 8 * heads,
          .ffn_size = 32 * heads};
}

std::shared_ptr<const Policy> Make(std::string_view text, const PolicyShape& shape) {
  auto policy = Policy::Parse(text, shape);
  EXPECT_TRUE(policy.ok()) << text << ": " << Message(policy.status());
  return policy.ok() ? *policy : nullptr;
}

/// The plan that a policy makes of predicted scores [heads][rows][rows].
SequencePlan PlanFor(std::string_view text, const PolicyShape& shape,
                     const std::vector<std::vector<float>>& heads, int32_t rows,
                     SequencePlan plan = {}, const std::vector<int32_t>& protected_positions = {}) {
  const auto policy = Make(text, shape);
  std::vector<ConstMatrix> scores;
  for (const auto& head : heads) {
    scores.push_back(head.empty() ? ConstMatrix() : ConstMatrix(head.data(), rows, rows));
  }
  const testing::GivenScores prediction(scores);
  std::vector<int32_t> positions(rows);
  std::iota(positions.begin(), positions.end(), 0);
  policy->Start(rows, protected_positions)->BeforeProjection(0, positions, &prediction, &plan);
  const AttentionExtent extent = {
      .heads = shape.heads, .kv_heads = shape.kv_heads, .queries = rows, .keys = rows};
  const absl::Status status = CheckPlan(plan, extent);
  EXPECT_TRUE(status.ok()) << Message(status);
  return plan;
}

std::vector<int32_t> Row(const SequencePlan& plan, int32_t head, int32_t query) {
  std::vector<int32_t> keys;
  for (int32_t j = 0; j < plan.candidates->keys(); ++j) {
    if (plan.candidates->test(head, query, j)) keys.push_back(j);
  }
  return keys;
}

TEST(FactCandidates, EachRowKeepsItsLargestPredictedScores) {
  const SequencePlan plan = PlanFor("fact:topk=0.5", Shape(1),
                                    {{1, 4, 3, 2, /**/ 5, 5, 5, 5, /**/ 0, -1, -2, -3, /**/  //
                                      9, kNan, -9, 0}},
                                    4);
  EXPECT_THAT(Row(plan, 0, 0), ElementsAre(1, 2));
  EXPECT_THAT(Row(plan, 0, 1), ElementsAre(0, 1));
  EXPECT_THAT(Row(plan, 0, 2), ElementsAre(0, 1));
  EXPECT_THAT(Row(plan, 0, 3), ElementsAre(0, 3));
  EXPECT_THAT(plan.one_hot, IsEmpty());
  EXPECT_THAT(plan.ffn_low_precision, IsEmpty());
}

TEST(FactCandidates, TheThresholdIsAPredictedProbability) {
  // Probabilities 1/2, 1/4, 1/8, 1/8.
  const float ln2 = std::log(2.0f);
  const std::vector<float> row = {3 * ln2, 2 * ln2, ln2, ln2};
  std::vector<float> scores;
  for (int i = 0; i < 4; ++i) scores.insert(scores.end(), row.begin(), row.end());
  EXPECT_THAT(Row(PlanFor("fact:threshold=0.2", Shape(1), {scores}, 4), 0, 0), ElementsAre(0, 1));
  EXPECT_THAT(Row(PlanFor("fact:threshold=0.3", Shape(1), {scores}, 4), 0, 0), ElementsAre(0));
  EXPECT_THAT(Row(PlanFor("fact:threshold=0.124", Shape(1), {scores}, 4), 0, 0),
              ElementsAre(0, 1, 2, 3));
  // The best one stays whatever the threshold.
  EXPECT_THAT(Row(PlanFor("fact:threshold=1", Shape(1), {scores}, 4), 0, 3), ElementsAre(0));
  // Both rules at once.
  EXPECT_THAT(Row(PlanFor("fact:topk=0.75,threshold=0.01", Shape(1), {scores}, 4), 0, 0),
              ElementsAre(0, 1, 2));
}

TEST(FactCandidates, DroppedHeadsAreNotAsked) {
  SequencePlan plan;
  plan.heads = {{1}};
  plan = PlanFor("fact:topk=0.5", Shape(2), {{}, {1, 2, 2, 1}}, 2, plan);
  EXPECT_THAT(Row(plan, 0, 0), IsEmpty());
  EXPECT_THAT(Row(plan, 1, 0), ElementsAre(1));
}

TEST(FactCandidates, ChooseAmongThoseOfAnEarlierPart) {
  SequencePlan plan;
  plan.candidates.emplace(1, 2, 2);
  plan.candidates->set(0, 0, 1);
  plan.candidates->set(0, 1, 0);
  plan.candidates->set(0, 1, 1);
  plan = PlanFor("fact:topk=0.5", Shape(1), {{9, 1, 9, 1}}, 2, plan);
  EXPECT_THAT(Row(plan, 0, 0), ElementsAre(1));
  EXPECT_THAT(Row(plan, 0, 1), ElementsAre(0));
}

TEST(FactQuerySkip, ALargeLeadSkips) {
  const std::vector<float> scores = {9, 1, 2, /**/ 1, 4, 3, /**/ 0, 1, 8};
  const SequencePlan plan = PlanFor("fact:qskip=gap,gap=7", Shape(1), {scores}, 3);
  EXPECT_THAT(plan.one_hot, ElementsAre(0, -1, 2));
  EXPECT_FALSE(plan.candidates.has_value());
  const SequencePlan other = PlanFor("fact:qskip=small-gap,gap=7", Shape(1), {scores}, 3);
  EXPECT_THAT(other.one_hot, ElementsAre(-1, 1, -1));
}

TEST(FactQuerySkip, ALargeLeadBoundsWhatIsLostAndASmallOneDoesNot) {
  std::mt19937 random(8);
  std::normal_distribution<float> normal(0, 3);
  const int32_t rows = 24;
  for (int round = 0; round < 20; ++round) {
    std::vector<float> scores(rows * rows);
    for (float& score : scores) score = normal(random);
    // The probability of all keys but the one-hot one.
    const auto lost = [&](int32_t i, int32_t one_hot) {
      double total = 0;
      for (int32_t j = 0; j < rows; ++j) {
        total += std::exp(scores[i * rows + j] - scores[i * rows + one_hot]);
      }
      return 1 - 1 / total;
    };
    const SequencePlan large = PlanFor("fact:qskip=gap,gap=2", Shape(1), {scores}, rows);
    const SequencePlan small = PlanFor("fact:qskip=small-gap,gap=2", Shape(1), {scores}, rows);
    for (int32_t i = 0; i < rows; ++i) {
      ASSERT_NE(large.one_hot[i] >= 0, small.one_hot[i] >= 0);
      const double others = std::exp(-2.0);
      if (large.one_hot[i] >= 0) {
        EXPECT_LE(lost(i, large.one_hot[i]), (rows - 1) * others / (1 + (rows - 1) * others));
      } else {
        EXPECT_GT(lost(i, small.one_hot[i]), others / (1 + others));
      }
    }
  }
}

TEST(FactQuerySkip, EqualsAndNanNeverLead) {
  const std::vector<float> scores = {5, 5, 5, kNan};
  EXPECT_THAT(PlanFor("fact:qskip=gap,gap=1", Shape(1), {scores}, 2).one_hot, ElementsAre(-1, -1));
  EXPECT_THAT(PlanFor("fact:qskip=small-gap,gap=1", Shape(1), {scores}, 2).one_hot,
              ElementsAre(0, -1));
}

TEST(FactQuerySkip, ARowThatSeesOneKeyIsOneHot) {
  EXPECT_THAT(PlanFor("fact:qskip=gap,gap=100", Shape(1), {{3}}, 1).one_hot, ElementsAre(0));
}

TEST(FactQuerySkip, SkippedQueriesNeedOneValueAndNoKey) {
  // Everybody looks at key 2 with a large lead.
  const SequencePlan plan =
      PlanFor("fact:topk=0.67,qskip=gap,gap=4", Shape(1), {{0, 0, 9, 0, 0, 9, 0, 0, 9}}, 3);
  const GeneratedRows rows =
      RowsToGenerate(plan, {.heads = 1, .kv_heads = 1, .queries = 3, .keys = 3, .causal = false});
  EXPECT_THAT(rows.query, ElementsAre(0, 0, 0));
  EXPECT_THAT(rows.key, ElementsAre(0, 0, 0));
  EXPECT_THAT(rows.value, ElementsAre(0, 0, 1));
}

TEST(FactFfn, TheMostChosenTokensRunInFullPrecision) {
  // Head 0 chooses 0, 1, 1; head 1 chooses 1, 2, 2: 1, 3, 2 times.
  const std::vector<float> first = {9, 0, 0, /**/ 0, 9, 0, /**/ 0, 9, 0};
  const std::vector<float> second = {0, 9, 0, /**/ 0, 0, 9, /**/ 0, 0, 9};
  EXPECT_THAT(PlanFor("fact:topk=0.1,ffn=0.3", Shape(2), {first, second}, 3).ffn_low_precision,
              ElementsAre(1, 0, 1));
  EXPECT_THAT(PlanFor("fact:topk=0.1,ffn=0.5", Shape(2), {first, second}, 3).ffn_low_precision,
              ElementsAre(1, 0, 0));
  // [CLS] counts inside the share.
  EXPECT_THAT(
      PlanFor("fact:topk=0.1,ffn=0.5", Shape(2), {first, second}, 3, {}, {0}).ffn_low_precision,
      ElementsAre(0, 0, 1));
  EXPECT_THAT(PlanFor("fact:topk=0.1,ffn=0.5,protect=none", Shape(2), {first, second}, 3, {}, {0})
                  .ffn_low_precision,
              ElementsAre(1, 0, 0));
}

TEST(FactFfn, EqualImportanceGoesToTheFirst) {
  EXPECT_THAT(PlanFor("fact:topk=0.1,ffn=0.5", Shape(1), {{9, 0, 0, 9}}, 2).ffn_low_precision,
              ElementsAre(0, 1));
}

TEST(FactFfn, NeedsSomethingThatChooses) {
  EXPECT_THAT(Message(Policy::Parse("fact:ffn=0.5", Shape(1)).status()),
              HasSubstr("give topk or threshold"));
  EXPECT_TRUE(Policy::Parse("fact:ffn=0.5,threshold=0.01", Shape(1)).ok());
}

TEST(Fact, HoldsItsInvariantsOnRandomScores) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 3);
  for (int round = 0; round < 200; ++round) {
    const auto rows = static_cast<int32_t>(1 + random() % 70);
    std::vector<std::vector<float>> heads(3, std::vector<float>(rows * rows));
    for (auto& head : heads) {
      for (float& score : head) score = random() % 50 == 0 ? kNan : std::round(normal(random));
    }
    const SequencePlan plan = PlanFor("fact:topk=0.3,threshold=0.02,ffn=0.4,qskip=gap,gap=3",
                                      Shape(3), heads, rows, {}, {0});
    int64_t full = 0;
    for (const uint8_t low : plan.ffn_low_precision) full += low == 0 ? 1 : 0;
    EXPECT_EQ(full, KeepCount(rows, 0.4));
    EXPECT_EQ(plan.ffn_low_precision[0], 0);
    for (int32_t h = 0; h < 3; ++h) {
      for (int32_t i = 0; i < rows; ++i) {
        const std::vector<int32_t> row = Row(plan, h, i);
        EXPECT_GE(row.size(), 1u);
        EXPECT_LE(static_cast<int64_t>(row.size()), KeepCount(rows, 0.3));
        EXPECT_LT(row.back(), rows);
        const int32_t one_hot = plan.one_hot[h * rows + i];
        if (one_hot >= 0) {
          EXPECT_THAT(row, ElementsAre(one_hot));
        }
      }
    }
  }
}

TEST(Fact, KeepingAllIsDense) {
  for (const char* text : {"fact", "fact:topk=1,threshold=0,ffn=1,qskip=off", "fact:bits=4"}) {
    const auto policy = Make(text, Shape(2));
    EXPECT_TRUE(policy->is_dense()) << text;
    EXPECT_FALSE(policy->prediction().wanted()) << text;
    EXPECT_EQ(policy->CostShare(50), 1.0);
  }
  const auto policy = Make("fact:topk=0.5,bits=6", Shape(2));
  EXPECT_FALSE(policy->is_dense());
  EXPECT_TRUE(policy->prediction().wanted());
  EXPECT_EQ(policy->prediction().bits, 6);
}

TEST(Fact, CostCountsThePredictionAndTheSavedFfn) {
  const PolicyShape shape = {.layers = 12,
                             .heads = 12,
                             .kv_heads = 12,
                             .head_dim = 64,
                             .hidden_size = 768,
                             .ffn_size = 3072};
  const double all = Make("fact:topk=0.25", shape)->CostShare(128);
  const double half = Make("fact:topk=0.25,ffn=0.5", shape)->CostShare(128);
  EXPECT_EQ(all, 1.0);
  EXPECT_LT(half, all);
  EXPECT_GT(half, 0.5);
}

}  // namespace
}  // namespace thresher
