#include "backend/device/reference/planned_attention.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "backend/device/device.h"
#include "backend/device/plan_rows.h"
#include "backend/device/top_k.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pointwise;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Random Q, K and V of one sequence, and what a plan makes of them.
struct Case {
  Case(AttentionShape shape, int64_t tokens, uint32_t seed, bool causal = false)
      : query(tokens, int64_t{shape.heads} * shape.head_dim),
        key(tokens, int64_t{shape.kv_heads} * shape.head_dim),
        value(tokens, int64_t{shape.kv_heads} * shape.head_dim),
        out(tokens, int64_t{shape.heads} * shape.head_dim),
        input{.shape = shape,
              .query = query.view(),
              .key = key.view(),
              .value = value.view(),
              .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
              .causal = causal} {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (const Matrix m : {query.view(), key.view(), value.view()}) {
      for (int64_t i = 0; i < m.rows; ++i) {
        for (float& x : m.row_span(i)) x = normal(random);
      }
    }
  }

  AttentionRecord Run(const SequencePlan& plan) {
    AttentionRecord record;
    const absl::Status status = PlannedAttention(input, plan, out.view(), &record);
    EXPECT_TRUE(status.ok()) << Message(status);
    return record;
  }
  std::vector<float> Output() const {
    return {out.view().data, out.view().data + out.view().rows * out.view().cols};
  }
  AttentionExtent extent() const {
    return {.heads = input.shape.heads,
            .kv_heads = input.shape.kv_heads,
            .queries = static_cast<int32_t>(query.view().rows),
            .keys = static_cast<int32_t>(key.view().rows),
            .causal = input.causal};
  }

  MatrixBuffer query, key, value, out;
  PlannedAttentionInput input;
};

/// One head of width one; scores are q * k.
struct Scalar : Case {
  Scalar(const std::vector<float>& q, const std::vector<float>& k, const std::vector<float>& v)
      : Case({1, 1, 1}, static_cast<int64_t>(q.size()), 0) {
    std::ranges::copy(q, query.view().data);
    std::ranges::copy(k, key.view().data);
    std::ranges::copy(v, value.view().data);
  }
};

const float kLn2 = std::log(2.0f);
const float kLn3 = std::log(3.0f);

SequencePlan Wanting() {
  SequencePlan plan;
  plan.wanted = {.column_sums = true, .head_l1 = true, .distribution = true};
  return plan;
}

TEST(PlannedAttention, DenseByHand) {
  // Query 0 scores 0, 0, ln 2: probabilities 1/4, 1/4, 1/2. Queries 1 and 2 are zero: thirds.
  Scalar c({1, 0, 0}, {0, 0, kLn2}, {4, 8, 12});
  const AttentionRecord record = c.Run(Wanting());
  EXPECT_THAT(c.Output(), ElementsAre(9, 8, 8));
  EXPECT_THAT(record.column_sums, Pointwise(DoubleNear(1e-7), {11.0 / 12, 11.0 / 12, 7.0 / 6}));
  EXPECT_THAT(record.head_l1, ElementsAre(25));
  EXPECT_THAT(record.entropy_sums,
              ElementsAre(DoubleNear(1.5 * std::log(2.0) + 2 * std::log(3.0), 1e-7)));
  EXPECT_THAT(record.sink_sums, ElementsAre(DoubleNear(11.0 / 12, 1e-7)));
  EXPECT_EQ(record.rows, 3);
  EXPECT_EQ(record.scores, 9);
  EXPECT_EQ(record.values, 9);
  EXPECT_EQ(record.refetched_rows, 0);
}

TEST(PlannedAttention, WhatIsNotWantedIsNotThere) {
  Scalar c({1, 0}, {0, 1}, {4, 8});
  const AttentionRecord record = c.Run({});
  EXPECT_TRUE(record.column_sums.empty());
  EXPECT_TRUE(record.head_l1.empty());
  EXPECT_TRUE(record.entropy_sums.empty());
  EXPECT_TRUE(record.sink_sums.empty());
  EXPECT_EQ(record.rows, 2);
}

TEST(PlannedAttention, ADensePlanHasTheBitsOfTheDevice) {
  for (const bool causal : {false, true}) {
    Case c({4, 2, 8}, 17, 3, causal);
    c.Run({});
    auto device = CreateDevice("reference", {});
    ASSERT_TRUE(device.ok());
    MatrixBuffer expected(17, 32);
    const std::vector<int32_t> offsets = {0, 17};
    const AttentionInput input = {.shape = c.input.shape,
                                  .query = c.input.query,
                                  .key = c.input.key,
                                  .value = c.input.value,
                                  .offsets = offsets,
                                  .scale = c.input.scale,
                                  .causal = causal};
    ASSERT_TRUE((*device)->Attention(input, expected.view()).ok());
    EXPECT_EQ(std::memcmp(expected.view().data, c.out.view().data, 17 * 32 * sizeof(float)), 0);
  }
}

TEST(PlannedAttention, EverythingAllowedIsDense) {
  Case c({2, 2, 8}, 9, 4);
  c.Run({});
  const std::vector<float> dense = c.Output();
  SequencePlan plan;
  plan.heads = {{0, 1}};
  plan.one_hot.assign(18, -1);
  plan.candidates.emplace(2, 9, 9);
  for (int32_t h = 0; h < 2; ++h) {
    for (int32_t i = 0; i < 9; ++i) {
      for (int32_t j = 0; j < 9; ++j) plan.candidates->set(h, i, j);
    }
  }
  c.Run(plan);
  EXPECT_EQ(c.Output(), dense);
}

TEST(PlannedAttention, DroppedHeadsAreZeroAndCountNothing) {
  Case c({3, 3, 4}, 5, 5);
  c.Run({});
  const std::vector<float> dense = c.Output();
  SequencePlan plan = Wanting();
  plan.heads = {{0, 2}};
  const AttentionRecord record = c.Run(plan);
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t d = 0; d < 12; ++d) {
      EXPECT_EQ(c.out.view().row(i)[d], d / 4 == 1 ? 0.0f : dense[i * 12 + d]);
    }
  }
  EXPECT_EQ(record.head_l1[1], 0.0);
  EXPECT_GT(record.head_l1[2], 0.0);
  EXPECT_EQ(record.rows, 10);
  EXPECT_EQ(record.scores, 50);
  EXPECT_NEAR(std::accumulate(record.column_sums.begin(), record.column_sums.end(), 0.0), 10, 1e-9);
}

TEST(PlannedAttention, CandidatesShareTheWholeProbability) {
  // Of keys scoring 0, ln 3, ln 2 only the first two: 1/4 and 3/4.
  Scalar c({1, 1, 1}, {0, kLn3, kLn2}, {4, 8, 1000});
  SequencePlan plan = Wanting();
  plan.candidates.emplace(1, 3, 3);
  for (int32_t i = 0; i < 3; ++i) {
    plan.candidates->set(0, i, 0);
    plan.candidates->set(0, i, 1);
  }
  const AttentionRecord record = c.Run(plan);
  EXPECT_THAT(c.Output(), Pointwise(::testing::FloatNear(1e-5f), {7.0f, 7.0f, 7.0f}));
  EXPECT_THAT(record.column_sums, Pointwise(DoubleNear(1e-6), {0.75, 2.25, 0.0}));
  EXPECT_EQ(record.scores, 6);
  EXPECT_EQ(record.values, 6);
}

TEST(PlannedAttention, AOneHotQueryReturnsThatValue) {
  Scalar c({1, 1, 1}, {0, kLn3, kLn2}, {4, 8, 16});
  SequencePlan plan = Wanting();
  plan.one_hot = {2, 2, 0};
  const AttentionRecord record = c.Run(plan);
  EXPECT_THAT(c.Output(), ElementsAre(16, 16, 4));
  EXPECT_THAT(record.column_sums, ElementsAre(1, 0, 2));
  EXPECT_EQ(record.rows, 0);
  EXPECT_EQ(record.scores, 0);
  EXPECT_EQ(record.values, 3);
  EXPECT_THAT(record.entropy_sums, ElementsAre(0));
  EXPECT_THAT(record.head_l1, ElementsAre(36));
}

TEST(PlannedAttention, LocalValuePruningReadsTheLargestWithoutRenormalising) {
  // Probabilities 1/8, 3/8, 2/8, 2/8: half of four values are the second and, of the equals, the
  // third: 3/8 * 8 + 2/8 * 16.
  Scalar c({1, 1, 1, 1}, {0, kLn3, kLn2, kLn2}, {4, 8, 16, 32});
  SequencePlan plan = Wanting();
  plan.value_keep = 0.5;
  const AttentionRecord record = c.Run(plan);
  EXPECT_THAT(c.Output(), ::testing::Each(::testing::FloatNear(7.0f, 1e-5f)));
  EXPECT_EQ(record.values, 8);
  EXPECT_EQ(record.scores, 16);
  // The sums are of the whole softmax.
  EXPECT_NEAR(record.column_sums[0], 0.5, 1e-6);
  plan.value_keep = 0.51;
  EXPECT_EQ(c.Run(plan).values, 12);
  plan.value_keep = 1e-9;
  EXPECT_EQ(c.Run(plan).values, 4);
}

TEST(PlannedAttention, ValueKeepIsAShareOfTheKeysInSight) {
  Case c({1, 1, 4}, 4, 6, /*causal=*/true);
  SequencePlan plan;
  plan.value_keep = 0.5;
  // ceil of half of 1, 2, 3, 4.
  EXPECT_EQ(c.Run(plan).values, 1 + 1 + 2 + 2);
  EXPECT_EQ(c.Run(plan).scores, 10);
}

TEST(PlannedAttention, RowsThatAreNotGeneratedAreNeverRead) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    Case c({4, 2, 4}, 10, seed, /*causal=*/seed % 2 == 0);
    SequencePlan plan = Wanting();
    plan.candidates.emplace(4, 10, 10);
    plan.one_hot.assign(40, -1);
    if (seed % 3 == 0) plan.heads = {{0, 3}};
    for (int32_t h = 0; h < 4; ++h) {
      for (int32_t i = 0; i < 10; ++i) {
        const int32_t visible = c.extent().visible(i);
        for (int n = 0; n < 2; ++n) {
          plan.candidates->set(h, i, static_cast<int32_t>(random() % visible));
        }
        if (random() % 3 == 0) plan.one_hot[h * 10 + i] = static_cast<int32_t>(random() % visible);
      }
    }
    if (seed % 4 == 0) plan.quantization.emplace();
    const AttentionRecord expected = c.Run(plan);
    const std::vector<float> output = c.Output();

    const GeneratedRows rows = RowsToGenerate(plan, c.extent());
    const auto poison = [](Matrix m, const std::vector<uint8_t>& generated, int64_t heads) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < m.rows; ++i) {
          if (!generated[h * m.rows + i]) std::fill_n(m.row(i) + h * 4, 4, kNan);
        }
      }
    };
    poison(c.query.view(), rows.query, 4);
    poison(c.key.view(), rows.key, 2);
    poison(c.value.view(), rows.value, 2);
    EXPECT_EQ(c.Run(plan).column_sums, expected.column_sums);
    EXPECT_EQ(c.Output(), output);
  }
}

TEST(PlannedAttention, LedgerCountsWhatThePlanAllows) {
  Case c({2, 2, 4}, 8, 9);
  std::mt19937 random(9);
  SequencePlan plan;
  plan.candidates.emplace(2, 8, 8);
  plan.value_keep = 0.3;  // ceil(2.4) = 3
  int64_t scores = 0;
  int64_t values = 0;
  for (int32_t h = 0; h < 2; ++h) {
    for (int32_t i = 0; i < 8; ++i) {
      int64_t row = 0;
      for (int32_t j = 0; j < 8; ++j) {
        if (j != i && random() % 2 == 0) continue;
        plan.candidates->set(h, i, j);
        ++row;
      }
      scores += row;
      values += std::min<int64_t>(row, 3);
    }
  }
  const AttentionRecord record = c.Run(plan);
  EXPECT_EQ(record.rows, 16);
  EXPECT_EQ(record.scores, scores);
  EXPECT_EQ(record.values, values);
}

TEST(ProgressiveQuantization, FirstScoresReadTheUpperPlaneRoundedDown) {
  // Four bits in all, and rows of width one: every K is +-7 of its own scale. The upper two bits
  // of 7 are 4, those of -7 are -8.
  Scalar c({7, 7, 7}, {7, 5, -3}, {1, 2, 3});
  c.input.scale = 0.01f;
  SequencePlan plan = Wanting();
  // Never refetch.
  plan.quantization = ProgressiveQuantization{.msb_bits = 2, .lsb_bits = 2, .threshold = 0.0};
  const AttentionRecord record = c.Run(plan);
  EXPECT_EQ(record.refetched_rows, 0);
  const double e = std::exp(0.01 * 7 * 4 * 7 / 7);
  const double f = std::exp(0.01 * 7 * 4 * 5 / 7);
  const double g = std::exp(0.01 * 7 * -8 * 3 / 7);
  EXPECT_NEAR(c.Output()[0], (e + 2 * f + 3 * g) / (e + f + g), 1e-6);
}

TEST(ProgressiveQuantization, RefetchedRowsHaveFullWidth) {
  Scalar c({7, 7, 7}, {7, 5, -3}, {1, 2, 3});
  c.input.scale = 0.01f;
  SequencePlan plan = Wanting();
  plan.quantization = ProgressiveQuantization{.msb_bits = 2, .lsb_bits = 2, .threshold = 1.0};
  const AttentionRecord record = c.Run(plan);
  EXPECT_EQ(record.refetched_rows, 3);
  EXPECT_EQ(record.scores, 9);
  const double e = std::exp(0.49);
  const double f = std::exp(0.35);
  const double g = std::exp(-0.21);
  EXPECT_NEAR(c.Output()[0], (e + 2 * f + 3 * g) / (e + f + g), 1e-6);
}

TEST(ProgressiveQuantization, OnlyRowsWithoutALeaderAreRefetched) {
  // Query 0 has a clear leader, query 1 none.
  Scalar c({10, 0, 10}, {1, -1, -1}, {1, 2, 3});
  SequencePlan plan;
  plan.quantization = ProgressiveQuantization{.msb_bits = 6, .lsb_bits = 4, .threshold = 0.5};
  EXPECT_EQ(c.Run(plan).refetched_rows, 1);
}

TEST(ProgressiveQuantization, WideIntegersApproachTheDenseResult) {
  Case c({2, 2, 16}, 12, 21);
  c.Run({});
  const std::vector<float> dense = c.Output();
  double last = 1e9;
  for (const int32_t bits : {4, 6, 8, 10}) {
    SequencePlan plan;
    plan.quantization = ProgressiveQuantization{bits, 4, 1.0};
    EXPECT_EQ(c.Run(plan).refetched_rows, 24);
    double worst = 0;
    for (size_t i = 0; i < dense.size(); ++i) {
      worst = std::max<double>(worst, std::abs(dense[i] - c.Output()[i]));
    }
    EXPECT_LT(worst, last);
    last = worst;
  }
  EXPECT_LT(last, 1e-3);
}

TEST(ProgressiveQuantization, ZeroAndNanRowsAreDefined) {
  Scalar zero({0, 0}, {0, 0}, {1, 3});
  SequencePlan plan;
  plan.quantization.emplace();
  zero.Run(plan);
  EXPECT_THAT(zero.Output(), ElementsAre(2, 2));
  Scalar broken({1, kNan}, {1, 1}, {1, 3});
  broken.Run(plan);
  EXPECT_EQ(broken.Output()[0], 2.0f);
  EXPECT_TRUE(std::isnan(broken.Output()[1]));
}

TEST(ProgressiveQuantization, ErrorOfOneScoreMovesProbabilitiesByAtMostHalfOfIt) {
  // SpAtten's bound: an error d in score 0 alone changes the probabilities by 2 d p0 (1 - p0) in
  // first order, at most d / 2 in all.
  std::mt19937 random(3);
  std::uniform_real_distribution<double> uniform(-4, 4);
  for (int round = 0; round < 2000; ++round) {
    std::vector<double> scores(2 + random() % 20);
    for (double& score : scores) score = uniform(random);
    const double error = uniform(random) / 4;
    const auto softmax = [](std::vector<double> s) {
      double total = 0;
      for (double& x : s) total += x = std::exp(x);
      for (double& x : s) x /= total;
      return s;
    };
    const std::vector<double> before = softmax(scores);
    scores[0] += error;
    const std::vector<double> after = softmax(scores);
    double moved = 0;
    for (size_t j = 0; j < before.size(); ++j) moved += std::abs(after[j] - before[j]);
    EXPECT_LE(moved, std::abs(error) / 2 + 1e-12);
  }
}

TEST(ProgressiveQuantization, ProbabilitiesMoveByAtMostHalfTheSumOfScoreErrors) {
  // The same through the whole path: every key's score error counts once.
  for (uint32_t seed = 0; seed < 30; ++seed) {
    Case c({1, 1, 8}, 1 + seed % 12, seed);
    const int64_t n = c.key.view().rows;
    // V is the identity in the first columns, so the output is the probabilities.
    if (n > 8) continue;
    for (int64_t j = 0; j < n; ++j) {
      std::fill_n(c.value.view().row(j), 8, 0.0f);
      c.value.view().row(j)[j] = 1.0f;
    }
    c.Run({});
    const std::vector<float> dense = c.Output();
    SequencePlan plan;
    plan.quantization = ProgressiveQuantization{6, 4, 0.0};
    c.Run(plan);
    for (int64_t i = 0; i < n; ++i) {
      // Q is rounded by half a step of 10 bits, K cut by a step of 6 bits at most.
      double bound = 0;
      double q_max = 0;
      double q_sum = 0;
      for (const float q : c.query.view().row_span(i)) {
        q_max = std::max<double>(q_max, std::abs(q));
        q_sum += std::abs(q);
      }
      for (int64_t j = 0; j < n; ++j) {
        double k_max = 0;
        double k_sum = 0;
        for (const float k : c.key.view().row_span(j)) {
          k_max = std::max<double>(k_max, std::abs(k));
          k_sum += std::abs(k);
        }
        const double q_error = q_max / 511 / 2;
        const double k_error = k_max / 511 * 15.5;
        bound += c.input.scale * (q_sum * k_error + q_error * k_sum + 8 * q_error * k_error);
      }
      double moved = 0;
      for (int64_t j = 0; j < n; ++j) moved += std::abs(dense[i * 8 + j] - c.Output()[i * 8 + j]);
      EXPECT_LE(moved, bound / 2 + 1e-6);
    }
  }
}

TEST(PlannedAttention, ASingleTokenAttendsToItself) {
  Scalar c({5}, {3}, {2});
  SequencePlan plan = Wanting();
  plan.value_keep = 0.1;
  plan.quantization.emplace();
  const AttentionRecord record = c.Run(plan);
  EXPECT_THAT(c.Output(), ElementsAre(2));
  EXPECT_THAT(record.column_sums, ElementsAre(1));
  EXPECT_THAT(record.entropy_sums, ElementsAre(0));
}

TEST(PlannedAttention, SelfSumsAreTheDiagonal) {
  // Probabilities 1/4, 1/4, 1/2 of query 0; thirds of the others, of which the last is one-hot.
  Scalar c({1, 0, 0}, {0, 0, kLn2}, {4, 8, 12});
  SequencePlan plan;
  plan.wanted.self_sums = true;
  EXPECT_THAT(c.Run(plan).self_sums, Pointwise(DoubleNear(1e-7), {1.0 / 4, 1.0 / 3, 1.0 / 3}));
  plan.one_hot = {-1, 0, 2};
  EXPECT_THAT(c.Run(plan).self_sums, Pointwise(DoubleNear(1e-7), {1.0 / 4, 0.0, 1.0}));
}

TEST(PlannedAttention, ValuesBelowTheThresholdAreSkipped) {
  // Probabilities 1/4, 1/4, 1/2 of query 0; thirds of the others.
  Scalar c({1, 0, 0}, {0, 0, kLn2}, {4, 8, 12});
  SequencePlan plan;
  plan.value_threshold = 0.3;
  AttentionRecord record = c.Run(plan);
  EXPECT_THAT(c.Output(), ElementsAre(6, 8, 8));  // Nothing is renormalised.
  EXPECT_EQ(record.values, 7);
  EXPECT_EQ(record.scores, 9);
  plan.value_threshold = 1.0 / 3;  // Is not below itself.
  EXPECT_EQ(c.Run(plan).values, 7);
  plan.value_threshold = 0.34;
  EXPECT_EQ(c.Run(plan).values, 1);
  plan.value_threshold = 1.0;  // Rows may read nothing.
  EXPECT_EQ(c.Run(plan).values, 0);
  EXPECT_THAT(c.Output(), ElementsAre(0, 0, 0));
  // Of those that value_keep leaves: the largest, and of equals the first.
  plan.value_threshold = 0.3;
  plan.value_keep = 0.3;
  EXPECT_EQ(c.Run(plan).values, 3);
  EXPECT_THAT(c.Output(), Pointwise(::testing::FloatNear(1e-6f), {6.0f, 4.0f / 3, 4.0f / 3}));
}

TEST(PlannedAttention, CalibrationMovesProbabilityFromSinksToTheOthers) {
  // Every query: 1/8, 3/8, 1/8, 3/8.
  Scalar c({1, 1, 1, 1}, {0, kLn3, 0, kLn3}, {8, 0, 16, 0});
  SequencePlan plan = Wanting();
  plan.calibration = AttentionCalibration{.heads = {0}, .threshold = 0.2, .beta = 0.4};
  // Of the two sinks the first is left; of the other 0.6 x 3/8 = 9/40 goes to 1/8, 3/8, 1/8: each
  // gets 9/40 x 8/5 = 9/25 of what it has.
  const AttentionRecord record = c.Run(plan);
  const double gain = 1.36;
  EXPECT_THAT(record.column_sums, Pointwise(DoubleNear(1e-6), {4 * gain / 8, 4 * 3 * gain / 8,
                                                               4 * gain / 8, 4 * 0.4 * 3 / 8}));
  for (const float x : c.Output()) EXPECT_NEAR(x, 3 * gain, 1e-5);
  EXPECT_NEAR(record.sink_sums[0], 4 * gain / 8, 1e-6);
  // The same, as a multiple of 1/4: 0.2 = 0.8 / 4.
  plan.calibration->relative = true;
  plan.calibration->threshold = 0.8;
  EXPECT_THAT(c.Run(plan).column_sums, Pointwise(DoubleNear(1e-12), record.column_sums));
  // beta = 1 moves nothing; nor do heads that are not among the calibrated.
  const std::vector<double> dense = c.Run(Wanting()).column_sums;
  plan.calibration->beta = 1.0;
  EXPECT_THAT(c.Run(plan).column_sums, Pointwise(DoubleNear(1e-12), dense));
  plan.calibration->beta = 0.0;
  plan.calibration->heads = {};
  EXPECT_EQ(c.Run(plan).column_sums, dense);
}

TEST(PlannedAttention, ARowWithNothingButSinksIsLeft) {
  // Every key is above 0.2; the candidates of query 2 are sinks that would lose.
  Scalar c({1, 1, 1}, {0, 0, 0}, {3, 6, 9});
  SequencePlan plan = Wanting();
  plan.calibration = AttentionCalibration{.heads = {0}, .threshold = 0.2, .beta = 0.0};
  plan.candidates.emplace(1, 3, 3);
  for (int32_t j = 0; j < 3; ++j) {
    plan.candidates->set(0, 0, j);
    plan.candidates->set(0, 1, j);
    if (j > 0) plan.candidates->set(0, 2, j);
  }
  c.Run(plan);
  EXPECT_THAT(c.Output(), Pointwise(::testing::FloatNear(1e-6f), {3.0f, 3.0f, 7.5f}));
}

TEST(PlannedAttention, ATokenThatStandsForTwoCountsTwice) {
  // By hand: keys 0 and 1 are alike; one of size two attends as both would.
  Scalar both({1, 1, 1}, {kLn2, kLn2, 0}, {5, 5, 10});
  Scalar merged({1, 1}, {kLn2, 0}, {5, 10});
  SequencePlan plan = Wanting();
  both.Run(plan);
  plan.token_sizes = {2, 1};
  const AttentionRecord record = merged.Run(plan);
  EXPECT_NEAR(merged.Output()[0], both.Output()[0], 1e-6);
  EXPECT_NEAR(record.column_sums[0], 2 * 4.0 / 5, 1e-6);
}

TEST(PlannedAttention, RefusesWhatDoesNotFit) {
  Case c({2, 2, 4}, 3, 1);
  AttentionRecord record;
  SequencePlan plan;
  plan.heads = {{5}};
  EXPECT_THAT(Message(PlannedAttention(c.input, plan, c.out.view(), &record)),
              HasSubstr("plan.heads[0]"));
  PlannedAttentionInput bad = c.input;
  bad.shape.kv_heads = 0;
  EXPECT_FALSE(PlannedAttention(bad, {}, c.out.view(), &record).ok());
  bad = c.input;
  bad.key = bad.key.Rows(0, 2);
  EXPECT_THAT(Message(PlannedAttention(bad, {}, c.out.view(), &record)), HasSubstr("do not fit"));
}

}  // namespace
}  // namespace thresher
