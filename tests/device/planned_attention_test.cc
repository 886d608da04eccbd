// Attention under plans on the cpu device: against the reference, for random plans of all rules;
// its bits where nothing is left out; invariance under batching and threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "backend/device/device.h"
#include "backend/device/plan_rows.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::unique_ptr<Device> MakeDevice(const char* name, int threads = 2) {
  auto device = CreateDevice(name, {.threads = threads});
  EXPECT_TRUE(device.ok()) << Message(device.status());
  return *std::move(device);
}

/// Q, K and V of a ragged batch, and the plans of its sequences.
struct Batch {
  Batch(AttentionShape shape, const std::vector<int32_t>& lengths, std::mt19937& random,
        bool causal)
      : shape(shape), causal(causal), lengths(lengths) {
    offsets = {0};
    for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
    const int64_t width = int64_t{shape.heads} * shape.head_dim;
    const int64_t kv_width = int64_t{shape.kv_heads} * shape.head_dim;
    query.Resize(offsets.back(), width);
    key.Resize(offsets.back(), kv_width);
    value.Resize(offsets.back(), kv_width);
    std::normal_distribution<float> normal;
    for (const Matrix m : {query.view(), key.view(), value.view()}) {
      for (int64_t i = 0; i < m.rows; ++i) {
        for (float& x : m.row_span(i)) x = 1.5f * normal(random);
      }
    }
    plans.resize(lengths.size());
  }

  AttentionExtent extent(size_t s) const {
    return {.heads = shape.heads,
            .kv_heads = shape.kv_heads,
            .queries = lengths[s],
            .keys = lengths[s],
            .causal = causal};
  }
  AttentionInput input() const {
    return {.shape = shape,
            .query = query.view(),
            .key = key.view(),
            .value = value.view(),
            .offsets = offsets,
            .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
            .causal = causal,
            .precision = precision};
  }

  AttentionShape shape;
  bool causal;
  Precision precision = Precision::kF32;
  std::vector<int32_t> lengths;
  std::vector<int32_t> offsets;
  MatrixBuffer query, key, value;
  std::vector<SequencePlan> plans;
};

struct Result {
  MatrixBuffer out;
  std::vector<AttentionRecord> records;

  std::vector<float> Rows(int32_t begin, int32_t end) const {
    const ConstMatrix m = out.view();
    return {m.row(begin), m.row(end)};
  }
};

Result Attend(Device& device, const Batch& batch) {
  Result result;
  result.out.Resize(batch.offsets.back(), batch.query.view().cols);
  result.records.resize(batch.plans.size());
  std::vector<const SequencePlan*> plans;
  for (const SequencePlan& plan : batch.plans) plans.push_back(&plan);
  const absl::Status status =
      device.PlannedAttention(batch.input(), plans, result.out.view(), result.records);
  EXPECT_TRUE(status.ok()) << Message(status);
  return result;
}

/// Sequence s of a batch, alone.
Batch Alone(const Batch& batch, size_t s) {
  std::mt19937 unused;
  Batch one(batch.shape, {batch.lengths[s]}, unused, batch.causal);
  one.precision = batch.precision;
  const auto copy = [&](const MatrixBuffer& from, MatrixBuffer& to) {
    std::copy_n(from.view().row(batch.offsets[s]), to.view().rows * to.view().cols, to.view().data);
  };
  copy(batch.query, one.query);
  copy(batch.key, one.key);
  copy(batch.value, one.value);
  one.plans = {batch.plans[s]};
  return one;
}

/// A plan in which each rule is there or not.
SequencePlan RandomPlan(const AttentionExtent& extent, std::mt19937& random) {
  SequencePlan plan;
  plan.wanted = {.column_sums = random() % 2 == 0,
                 .head_l1 = random() % 2 == 0,
                 .distribution = random() % 2 == 0};
  if (random() % 3 == 0) {
    std::vector<int32_t> heads;
    for (int32_t h = 0; h < extent.heads; ++h) {
      if (random() % 3 != 0) heads.push_back(h);
    }
    if (heads.empty()) heads.push_back(static_cast<int32_t>(random() % extent.heads));
    plan.heads = heads;
  }
  if (random() % 2 == 0) {
    plan.candidates.emplace(extent.heads, extent.queries, extent.keys);
    const uint32_t rarity = 1 + random() % 8;
    for (int32_t h = 0; h < extent.heads; ++h) {
      for (int32_t i = 0; i < extent.queries; ++i) {
        plan.candidates->set(h, i, static_cast<int32_t>(random() % extent.visible(i)));
        for (int32_t j = 0; j < extent.keys; ++j) {
          if (random() % rarity == 0) plan.candidates->set(h, i, j);
        }
      }
    }
  }
  if (random() % 3 == 0) {
    const uint32_t rarity = 1 + random() % 4;
    for (int32_t h = 0; h < extent.heads; ++h) {
      for (int32_t i = 0; i < extent.queries; ++i) {
        const auto key = static_cast<int32_t>(random() % extent.visible(i));
        plan.one_hot.push_back(random() % rarity == 0 ? key : -1);
      }
    }
  }
  if (random() % 3 == 0) plan.value_keep = 0.05 + 0.3 * static_cast<double>(random() % 4);
  if (random() % 3 == 0) {
    plan.quantization = ProgressiveQuantization{
        .msb_bits = static_cast<int32_t>(4 + random() % 5), .lsb_bits = 4, .threshold = 0.15};
  }
  plan.wanted.self_sums = random() % 2 == 0;
  if (random() % 3 == 0) plan.value_threshold = 0.002 * static_cast<double>(1 + random() % 50);
  if (random() % 3 == 0) {
    plan.calibration = AttentionCalibration{
        .heads = {}, .threshold = 1.5, .relative = true, .beta = 0.25 * (random() % 4)};
    for (int32_t h = 0; h < extent.heads; ++h) {
      if (random() % 2 == 0) plan.calibration->heads.push_back(h);
    }
  }
  if (random() % 3 == 0) {
    for (int32_t j = 0; j < extent.keys; ++j) {
      plan.token_sizes.push_back(static_cast<float>(1 + random() % 6));
    }
  }
  return plan;
}

Batch RandomBatch(uint32_t seed) {
  std::mt19937 random(seed);
  constexpr AttentionShape kShapes[] = {{2, 2, 64}, {4, 2, 8}, {3, 3, 5}, {4, 1, 32}, {1, 1, 1}};
  constexpr int32_t kLengths[] = {1, 2, 5, 6, 7, 31, 64, 127, 128, 129, 200, 300};
  std::vector<int32_t> lengths;
  for (uint32_t s = 0; s < 1 + seed % 3; ++s) lengths.push_back(kLengths[random() % 12]);
  Batch batch(kShapes[seed % 5], lengths, random, seed % 4 == 3);
  for (size_t s = 0; s < lengths.size(); ++s) {
    batch.plans[s] = RandomPlan(batch.extent(s), random);
  }
  return batch;
}

void ExpectNear(const std::vector<double>& actual, const std::vector<double>& expected,
                double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(actual[i], expected[i], tolerance * (1.0 + std::abs(expected[i]))) << i;
  }
}

TEST(PlannedAttentionOnCpu, RandomPlansAgreeWithTheReference) {
  const auto cpu = MakeDevice("cpu");
  const auto reference = MakeDevice("reference");
  for (uint32_t seed = 0; seed < 120; ++seed) {
    SCOPED_TRACE(seed);
    const Batch batch = RandomBatch(seed);
    const Result actual = Attend(*cpu, batch);
    const Result expected = Attend(*reference, batch);
    for (size_t s = 0; s < batch.plans.size(); ++s) {
      SCOPED_TRACE(s);
      const AttentionRecord& a = actual.records[s];
      const AttentionRecord& e = expected.records[s];
      EXPECT_EQ(a.rows, e.rows);
      EXPECT_EQ(a.scores, e.scores);
      EXPECT_EQ(a.values, e.values);
      EXPECT_EQ(a.refetched_rows, e.refetched_rows);
      EXPECT_EQ(a.refetched_scores, e.refetched_scores);
      ExpectNear(a.column_sums, e.column_sums, 1e-5);
      ExpectNear(a.self_sums, e.self_sums, 1e-5);
      ExpectNear(a.head_l1, e.head_l1, 1e-4);
      ExpectNear(a.sink_sums, e.sink_sums, 1e-5);
      ExpectNear(a.entropy_sums, e.entropy_sums, 1e-5);
    }
    const ConstMatrix a = actual.out.view(), e = expected.out.view();
    for (int64_t i = 0; i < a.rows; ++i) {
      for (int64_t d = 0; d < a.cols; ++d) ASSERT_NEAR(a.row(i)[d], e.row(i)[d], 2e-5) << i;
    }
  }
}

class WithNothingLeftOut : public ::testing::TestWithParam<Precision> {};

INSTANTIATE_TEST_SUITE_P(Precisions, WithNothingLeftOut,
                         ::testing::Values(Precision::kF32, Precision::kBF16),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST_P(WithNothingLeftOut, AttentionHasTheBitsOfDense) {
  const auto cpu = MakeDevice("cpu");
  const int32_t dim = GetParam() == Precision::kF32 ? 24 : 32, width = 3 * dim;
  for (const bool causal : {false, true}) {
    for (const int32_t length : {1, 5, 6, 128, 129, 191, 192, 193, 400}) {
      std::mt19937 random(length);
      Batch batch({3, 3, dim}, {length, 7}, random, causal);
      batch.precision = GetParam();
      MatrixBuffer dense(batch.offsets.back(), width);
      ASSERT_TRUE(cpu->Attention(batch.input(), dense.view()).ok());
      const auto expect_dense = [&](const char* what) {
        const Result result = Attend(*cpu, batch);
        EXPECT_EQ(std::memcmp(result.out.view().data, dense.view().data,
                              sizeof(float) * static_cast<size_t>(batch.offsets.back() * width)),
                  0)
            << what << ", length " << length;
      };
      expect_dense("no rule");
      for (size_t s = 0; s < 2; ++s) {
        SequencePlan& plan = batch.plans[s];
        plan.wanted = {
            .column_sums = true, .self_sums = true, .head_l1 = true, .distribution = true};
        const int32_t n = batch.lengths[s];
        plan.candidates.emplace(3, n, n);
        for (int32_t h = 0; h < 3; ++h) {
          for (int32_t i = 0; i < n; ++i) {
            for (int32_t j = 0; j < n; ++j) plan.candidates->set(h, i, j);
          }
        }
        plan.one_hot.assign(3 * static_cast<size_t>(n), -1);
        plan.heads = {{0, 1, 2}};
      }
      expect_dense("every rule, and all statistics");
    }
  }
}

TEST(PlannedAttentionOnCpu, SameBitsAloneAndTogetherOnAnyNumberOfThreads) {
  const auto one = MakeDevice("cpu", 1);
  const auto three = MakeDevice("cpu", 3);
  for (uint32_t seed = 200; seed < 240; ++seed) {
    SCOPED_TRACE(seed);
    Batch batch = RandomBatch(seed);
    batch.precision = seed % 2 == 0 ? Precision::kF32 : Precision::kBF16;
    const Result together = Attend(*three, batch);
    for (size_t s = 0; s < batch.plans.size(); ++s) {
      const Result alone = Attend(*one, Alone(batch, s));
      EXPECT_EQ(alone.Rows(0, batch.lengths[s]),
                together.Rows(batch.offsets[s], batch.offsets[s + 1]));
      EXPECT_EQ(alone.records[0].column_sums, together.records[s].column_sums);
      EXPECT_EQ(alone.records[0].self_sums, together.records[s].self_sums);
      EXPECT_EQ(alone.records[0].values, together.records[s].values);
      EXPECT_EQ(alone.records[0].head_l1, together.records[s].head_l1);
      EXPECT_EQ(alone.records[0].sink_sums, together.records[s].sink_sums);
      EXPECT_EQ(alone.records[0].entropy_sums, together.records[s].entropy_sums);
    }
  }
}

TEST(PlannedAttentionOnCpu, RowsThatAreNotGeneratedDoNotMatter) {
  const auto cpu = MakeDevice("cpu");
  for (uint32_t seed = 300; seed < 340; ++seed) {
    SCOPED_TRACE(seed);
    Batch batch = RandomBatch(seed);
    const Result expected = Attend(*cpu, batch);
    for (size_t s = 0; s < batch.plans.size(); ++s) {
      const GeneratedRows rows = RowsToGenerate(batch.plans[s], batch.extent(s));
      const int32_t dim = batch.shape.head_dim;
      const auto poison = [&](Matrix m, const std::vector<uint8_t>& generated, int32_t heads) {
        for (int32_t h = 0; h < heads; ++h) {
          for (int32_t i = 0; i < batch.lengths[s]; ++i) {
            if (generated[h * batch.lengths[s] + i]) continue;
            std::fill_n(m.row(batch.offsets[s] + i) + h * dim, dim, kNan);
          }
        }
      };
      poison(batch.query.view(), rows.query, batch.shape.heads);
      poison(batch.key.view(), rows.key, batch.shape.kv_heads);
      poison(batch.value.view(), rows.value, batch.shape.kv_heads);
    }
    const Result actual = Attend(*cpu, batch);
    EXPECT_EQ(actual.Rows(0, batch.offsets.back()), expected.Rows(0, batch.offsets.back()));
    for (size_t s = 0; s < batch.plans.size(); ++s) {
      EXPECT_EQ(actual.records[s].column_sums, expected.records[s].column_sums);
    }
  }
}

TEST(PlannedAttentionOnCpu, AllEqualScoresReadTheFirstValues) {
  const auto cpu = MakeDevice("cpu");
  std::mt19937 random(1);
  Batch batch({1, 1, 1}, {8}, random, false);
  for (int64_t i = 0; i < 8; ++i) {
    batch.query.view().row(i)[0] = 0.0f;
    batch.value.view().row(i)[0] = static_cast<float>(1 << i);
  }
  batch.plans[0].value_keep = 0.375;  // Three of eight: (1 + 2 + 4) / 8.
  const Result result = Attend(*cpu, batch);
  for (const float x : result.Rows(0, 8)) EXPECT_EQ(x, 0.875f);
  EXPECT_EQ(result.records[0].values, 24);
}

TEST(PlannedAttentionOnCpu, ANanScoreMakesItsRowNanAndNoOther) {
  const auto cpu = MakeDevice("cpu");
  const auto reference = MakeDevice("reference");
  for (const int rule : {0, 1, 2, 3}) {
    SCOPED_TRACE(rule);
    std::mt19937 random(5);
    Batch batch({1, 1, 8}, {140}, random, true);
    batch.key.view().row(100)[3] = kNan;  // Queries from the 100th on see it.
    SequencePlan& plan = batch.plans[0];
    if (rule == 1) plan.value_keep = 0.3;
    if (rule == 2) plan.quantization.emplace();
    if (rule == 3) {
      plan.candidates.emplace(1, 140, 140);
      for (int32_t i = 0; i < 140; ++i) {
        for (int32_t j = 0; j <= i; ++j) {
          if (j != 100 || i % 2 == 0) plan.candidates->set(0, i, j);
        }
      }
    }
    for (Device* device : {cpu.get(), reference.get()}) {
      const Result result = Attend(*device, batch);
      for (int64_t i = 0; i < 140; ++i) {
        const bool sees = i >= 100 && (rule != 3 || i % 2 == 0);
        EXPECT_EQ(std::isnan(result.out.view().row(i)[0]), sees) << i;
      }
    }
  }
}

TEST(PlannedAttentionOnCpu, RefusesPlansThatDoNotFit) {
  const auto cpu = MakeDevice("cpu");
  std::mt19937 random(1);
  Batch batch({2, 2, 4}, {3}, random, false);
  batch.plans[0].heads = {{5}};
  MatrixBuffer out(3, 8);
  std::vector<AttentionRecord> records(1);
  const SequencePlan* plans[] = {&batch.plans[0]};
  const absl::Status status = cpu->PlannedAttention(batch.input(), plans, out.view(), records);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(Message(status).find("plan.heads[0]"), std::string::npos);
}

}  // namespace
}  // namespace thresher
