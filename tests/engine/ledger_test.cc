// The account against hand-worked layers, and against what devices say they did under any plan.
#include "backend/engine/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "backend/device/plan_rows.h"
#include "backend/sparsity/report.h"
#include "backend/tensor/matrix.h"
#include "tests/engine/engine_testing.h"

namespace thresher {
namespace {

using Work = v1::PruningReport::Work;

constexpr PolicyShape kShape = {
    .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 8, .hidden_size = 32, .ffn_size = 64};

TEST(Ledger, ADenseLayerDoesAllOfIt) {
  const AttentionRecord record{.rows = 4 * 5, .scores = 4 * 25, .values = 4 * 25};
  const Work work = LayerWork(kShape, 5, 5, nullptr, false, record);
  for (const KindOfWork& kind : kKindsOfWork) EXPECT_EQ(KeepRatio((work.*kind.amount)()), 1.0);
  EXPECT_EQ(work.qkv_rows().dense(), 5 * (4 + 2 * 2));
  // K and V in float: 2 x 4 bytes for each element of 100 pairs.
  EXPECT_EQ(work.bytes().dense(), 100 * 8 * 8);
  EXPECT_EQ(work.bytes().done(), work.bytes().dense());
  EXPECT_EQ(work.softmax_rows(), 20);
}

TEST(Ledger, BytesFollowTheWidthsOfThePlanes) {
  SequencePlan plan;
  plan.quantization = {.msb_bits = 6, .lsb_bits = 4, .threshold = 0.1};
  const AttentionRecord record{
      .rows = 20, .refetched_rows = 4, .scores = 100, .refetched_scores = 20, .values = 30};
  const Work work = LayerWork(kShape, 5, 5, &plan, false, record);
  EXPECT_EQ(work.bytes().done(), (100 * 6 + 20 * 4) * 8 / 8 + 30 * 8 * 4);
  EXPECT_EQ(work.refetched_rows(), 4);
  EXPECT_DOUBLE_EQ(RefetchShare(work), 0.2);
}

TEST(Ledger, DroppedTokensAndLowPrecisionRowsCount) {
  SequencePlan plan;
  plan.ffn_low_precision = {0, 1, 1};
  const AttentionRecord record{.rows = 12, .scores = 36, .values = 36};
  const Work work = LayerWork(kShape, 5, 3, &plan, false, record);
  EXPECT_EQ(work.tokens().dense(), 5);
  EXPECT_EQ(work.tokens().done(), 3);
  EXPECT_EQ(work.ffn_full_precision().done(), 1);
  EXPECT_EQ(work.qkv_rows().done(), 3 * 8);
}

TEST(Ledger, OutputsThatWereSkippedCount) {
  const AttentionRecord record{.rows = 12, .scores = 36, .values = 36};
  // Three of five tokens, 64 outputs each.
  Work work = LayerWork(kShape, 5, 3, nullptr, false, record);
  EXPECT_EQ(work.ffn_outputs().dense(), 320);
  EXPECT_EQ(work.ffn_outputs().done(), 192);
  AddSpeculation({.predicted = 192, .skipped = 100}, &work);
  EXPECT_EQ(work.ffn_outputs().done(), 92);
  EXPECT_EQ(work.predicted_outputs(), 192);
  EXPECT_FALSE(work.has_wrongly_skipped_outputs());
  AddSpeculation({.predicted = 0, .skipped = 0, .wrong = 7}, &work);
  EXPECT_EQ(work.wrongly_skipped_outputs(), 7);
  Work total;
  AddWork(work, &total);
  AddWork(work, &total);
  EXPECT_EQ(total.ffn_outputs().done(), 184);
  EXPECT_EQ(total.predicted_outputs(), 384);
  EXPECT_EQ(total.wrongly_skipped_outputs(), 14);
}

TEST(Ledger, APredictionIsOfEveryRowAndPairOfTheHeadsPresent) {
  // Three of five tokens, all heads: 3 x (4 of Q + 2 of K), 4 x 9 pairs.
  SequencePlan plan;
  Work work = LayerWork(kShape, 5, 3, &plan, true, {});
  EXPECT_EQ(work.predicted_rows(), 3 * 6);
  EXPECT_EQ(work.predicted_scores(), 4 * 9);
  // One group: 3 x (2 + 1), 2 x 9.
  plan.heads = {{2, 3}};
  work = LayerWork(kShape, 5, 3, &plan, true, {});
  EXPECT_EQ(work.predicted_rows(), 3 * 3);
  EXPECT_EQ(work.predicted_scores(), 2 * 9);
  // What is then chosen changes nothing.
  plan.candidates.emplace(4, 3, 3);
  plan.one_hot.assign(4 * 3, 0);
  EXPECT_EQ(LayerWork(kShape, 5, 3, &plan, true, {}).predicted_scores(), 2 * 9);
  // Causal: 1 + 2 + 3 pairs.
  PolicyShape causal = kShape;
  causal.causal = true;
  EXPECT_EQ(LayerWork(causal, 5, 3, nullptr, true, {}).predicted_scores(), 4 * 6);
  Work total;
  AddWork(work, &total);
  AddWork(work, &total);
  EXPECT_EQ(total.predicted_rows(), 2 * 9);
  EXPECT_EQ(total.predicted_scores(), 2 * 18);
}

TEST(Ledger, NothingToDoIsNothingLeftOut) {
  EXPECT_EQ(KeepRatio({}), 1.0);
  EXPECT_EQ(RefetchShare({}), 0.0);
}

/// Any plan that fits: heads by group, candidates, one-hot rows, value rules, bits.
SequencePlan RandomPlan(std::mt19937& random, int32_t rows) {
  const auto chance = [&] { return random() % 2 == 0; };
  SequencePlan plan;
  if (chance()) plan.heads = chance() ? std::vector<int32_t>{0, 1} : std::vector<int32_t>{2, 3};
  if (chance()) {
    plan.candidates.emplace(kShape.heads, rows, rows);
    for (int32_t h = 0; h < kShape.heads; ++h) {
      for (int32_t i = 0; i < rows; ++i) {
        plan.candidates->set(h, i, static_cast<int32_t>(random() % rows));
        for (int32_t j = 0; j < rows; ++j) {
          if (random() % 3 == 0) plan.candidates->set(h, i, j);
        }
      }
    }
  }
  if (chance()) {
    for (int32_t n = 0; n < kShape.heads * rows; ++n) {
      plan.one_hot.push_back(random() % 4 == 0 ? static_cast<int32_t>(random() % rows) : -1);
    }
  }
  if (chance()) plan.value_keep = 0.05 + 0.95 * (random() % 100) / 100.0;
  if (chance()) plan.quantization = {.msb_bits = 4, .lsb_bits = 4, .threshold = 0.3};
  if (chance()) {
    for (int32_t i = 0; i < rows; ++i) plan.ffn_low_precision.push_back(random() % 2);
  }
  plan.wanted.distribution = true;
  return plan;
}

class LedgerOnDevices : public ::testing::TestWithParam<const char*> {};

TEST_P(LedgerOnDevices, SaysWhatTheDeviceSaysAndNeverMoreThanDense) {
  const auto device = testing::MakeDevice(GetParam());
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 200; ++round) {
    const auto rows = static_cast<int32_t>(1 + random() % 20);
    const auto dense_rows = static_cast<int32_t>(rows + random() % 5);
    const auto fill = [&](int64_t columns) {
      MatrixBuffer buffer(rows, columns);
      for (int64_t i = 0; i < rows * columns; ++i) buffer.view().data[i] = normal(random);
      return buffer;
    };
    const MatrixBuffer query = fill(32), key = fill(16), value = fill(16);
    MatrixBuffer out(rows, 32);
    const std::vector<int32_t> offsets = {0, rows};
    const SequencePlan plan = RandomPlan(random, rows);
    const SequencePlan* const plans[] = {&plan};
    AttentionRecord records[1];
    const absl::Status status =
        device->PlannedAttention({.shape = {kShape.heads, kShape.kv_heads, kShape.head_dim},
                                  .query = query.view(),
                                  .key = key.view(),
                                  .value = value.view(),
                                  .offsets = offsets,
                                  .scale = 0.35f},
                                 plans, out.view(), records);
    ASSERT_TRUE(status.ok()) << status;
    const AttentionRecord& record = records[0];
    const bool predicted = random() % 2 == 0;
    const Work work = LayerWork(kShape, dense_rows, rows, &plan, predicted, record);

    // Counted anew from the plan alone.
    int64_t scores = 0, softmax_rows = 0;
    for (int32_t h = 0; h < kShape.heads; ++h) {
      if (plan.heads && std::ranges::count(*plan.heads, h) == 0) continue;
      for (int32_t i = 0; i < rows; ++i) {
        if (!plan.one_hot.empty() && plan.one_hot[h * rows + i] >= 0) continue;
        ++softmax_rows;
        for (int32_t j = 0; j < rows; ++j) {
          scores += !plan.candidates || plan.candidates->test(h, i, j);
        }
      }
    }
    EXPECT_EQ(work.scores().done(), scores);
    EXPECT_EQ(work.scores().done(), record.scores);
    EXPECT_EQ(work.softmax_rows(), softmax_rows);
    EXPECT_EQ(work.values().done(), record.values);
    EXPECT_EQ(work.refetched_rows(), record.refetched_rows);
    EXPECT_LE(work.refetched_rows(), work.softmax_rows());
    EXPECT_LE(record.refetched_scores, record.scores);
    EXPECT_EQ(work.heads().done(), plan.heads ? 2 : 4);
    for (const KindOfWork& kind : kKindsOfWork) {
      EXPECT_LE((work.*kind.amount)().done(), (work.*kind.amount)().dense()) << kind.name;
    }
    EXPECT_LE(work.bytes().done(), work.bytes().dense());
    // A prediction comes before any choice: all that is generated and scored was predicted.
    if (predicted) {
      EXPECT_GE(work.predicted_scores(), work.scores().done());
      const int64_t values = plan.heads ? rows : 2 * rows;
      EXPECT_GE(work.predicted_rows(), work.qkv_rows().done() - values);
      EXPECT_LE(work.predicted_rows(), rows * (kShape.heads + kShape.kv_heads));
    } else {
      EXPECT_EQ(work.predicted_rows(), 0);
      EXPECT_EQ(work.predicted_scores(), 0);
    }

    v1::PruningReport report;
    AttentionDistribution distribution;
    distribution.Add(plan, true, record);
    distribution.Fill(&report);
    ASSERT_EQ(report.has_attention_entropy(), softmax_rows > 0);
    EXPECT_GE(report.attention_entropy(), -1e-6);
    EXPECT_LE(report.attention_entropy(), std::log(rows) + 1e-4);
    EXPECT_LE(report.sink_share(), 1 + 1e-5);
    EXPECT_LE(report.sink_heads(), 1.0);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, LedgerOnDevices, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return std::string(info.param); });

SequencePlan Measuring() {
  SequencePlan plan;
  plan.wanted.distribution = true;
  return plan;
}

TEST(AttentionDistribution, OfUniformRowsIsTheLogarithmOfTheLength) {
  // Four heads, T queries, each row uniform over T keys.
  for (const int32_t length : {1, 2, 3, 4, 64}) {
    AttentionRecord record{.rows = 4 * length};
    record.entropy_sums.assign(4, length * std::log(length));
    record.sink_sums.assign(4, 1.0);  // length rows of 1 / length.
    AttentionDistribution distribution;
    distribution.Add(Measuring(), true, record);
    distribution.Add(Measuring(), true, record);  // Another layer of the same kind.
    v1::PruningReport report;
    distribution.Fill(&report);
    EXPECT_DOUBLE_EQ(report.attention_entropy(), std::log(length));
    EXPECT_DOUBLE_EQ(report.sink_share(), 1.0 / length);
    EXPECT_EQ(report.sink_heads(), length <= 3 ? 1.0 : 0.0) << length;  // 1/3 > 0.3 > 1/4.
  }
}

TEST(AttentionDistribution, OfAUniformCausalMapIsTheHarmonicMean) {
  constexpr int kLength = 10;
  double harmonic = 0.0;
  for (int i = 1; i <= kLength; ++i) harmonic += 1.0 / i;
  AttentionRecord record{.rows = kLength};
  record.sink_sums = {harmonic};
  record.entropy_sums = {0.0};
  AttentionDistribution distribution;
  distribution.Add(Measuring(), true, record);
  v1::PruningReport report;
  distribution.Fill(&report);
  EXPECT_DOUBLE_EQ(report.sink_share(), harmonic / kLength);  // 0.2929
  EXPECT_EQ(report.sink_heads(), 0.0);
}

TEST(AttentionDistribution, HeadsAreJudgedByTheirOwnRows) {
  // Head 0 does not run. Of head 1's two queries one is one-hot, and the other half a sink.
  SequencePlan plan = Measuring();
  plan.heads = {{1, 2}};
  plan.one_hot = {-1, -1, 0, -1, -1, -1};
  AttentionRecord record{.rows = 3};
  record.sink_sums = {0.0, 0.5, 0.2};
  record.entropy_sums = {0.0, 0.1, 0.2};
  AttentionDistribution distribution;
  distribution.Add(plan, true, record);
  v1::PruningReport report;
  distribution.Fill(&report);
  EXPECT_DOUBLE_EQ(report.sink_heads(), 0.5);
  EXPECT_DOUBLE_EQ(report.sink_share(), 0.7 / 3);
}

TEST(AttentionDistribution, HeadsAreClassedByTheLargestEntropy) {
  // Two layers of four heads with two rows each: means of 4 (the largest), 3.1, 3, 1.1; 1, 0, 2, 2.
  AttentionDistribution distribution;
  for (const std::vector<double>& sums : {std::vector<double>{8, 6.2, 6, 2.2}, {2, 0, 4, 4}}) {
    AttentionRecord record{.rows = 8};
    record.sink_sums.assign(4, 0.0);
    record.entropy_sums = sums;
    distribution.Add(Measuring(), true, record);
  }
  v1::PruningReport report;
  distribution.Fill(&report);
  EXPECT_DOUBLE_EQ(report.collapsed_heads(), 2.0 / 8);   // 1 is a quarter: at most.
  EXPECT_DOUBLE_EQ(report.overloaded_heads(), 2.0 / 8);  // 3 is three quarters: not above.
}

TEST(AttentionDistribution, OneTokenCollapsesEveryHead) {
  AttentionRecord record{.rows = 2};
  record.sink_sums = record.entropy_sums = {0.0, 0.0};
  AttentionDistribution distribution;
  distribution.Add(Measuring(), true, record);
  v1::PruningReport report;
  distribution.Fill(&report);
  EXPECT_EQ(report.collapsed_heads(), 1.0);
  EXPECT_EQ(report.overloaded_heads(), 0.0);
}

TEST(AttentionDistribution, SinkIsOfTheLayersThatTheFirstTokenReached) {
  AttentionRecord first{.rows = 4};
  first.entropy_sums = {3.0, 1.0};
  first.sink_sums = {2.0, 0.2};      // Two rows each.
  AttentionRecord later{.rows = 2};  // Row 0 is another token now, however much it receives.
  later.entropy_sums = {0.5, 0.0};
  later.sink_sums = {1.0, 1.0};
  AttentionDistribution distribution;
  distribution.Add(Measuring(), true, first);
  distribution.Add(Measuring(), false, later);
  v1::PruningReport report;
  distribution.Fill(&report);
  EXPECT_DOUBLE_EQ(report.attention_entropy(), 4.5 / 6);
  EXPECT_DOUBLE_EQ(report.sink_share(), 2.2 / 4);
  EXPECT_DOUBLE_EQ(report.sink_heads(), 0.5);

  AttentionDistribution without;
  without.Add(Measuring(), false, later);
  v1::PruningReport silent;
  without.Fill(&silent);
  EXPECT_TRUE(silent.has_attention_entropy());
  EXPECT_FALSE(silent.has_sink_share());
  EXPECT_FALSE(silent.has_sink_heads());
}

TEST(AttentionDistribution, IsSilentAboutWhatWasNotMeasured) {
  AttentionDistribution distribution;
  distribution.Add({}, true, {.rows = 10});
  v1::PruningReport report;
  distribution.Fill(&report);
  EXPECT_FALSE(report.has_attention_entropy());
  EXPECT_FALSE(report.has_sink_share());
  EXPECT_FALSE(report.has_sink_heads());
}

}  // namespace
}  // namespace thresher
