// Flow-attention: by hand, and every device against an oracle in double that is written from the
// paper's definitions, with the network's flows as matrices.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend/device/device.h"
#include "tests/device/random_data.h"

namespace thresher {
namespace {

using testing::Offsets;
using testing::RandomData;

class FlowAttention : public ::testing::TestWithParam<std::string> {
 protected:
  std::vector<float> Run(const AttentionInput& input) {
    MatrixBuffer out(input.query.rows, int64_t{input.shape.heads} * input.shape.head_dim);
    const absl::Status status = device_->FlowAttention(input, out.view());
    EXPECT_TRUE(status.ok()) << status;
    std::vector<float> values;
    for (int64_t r = 0; r < input.query.rows; ++r) {
      const auto row = ConstMatrix(out.view()).row_span(r);
      values.insert(values.end(), row.begin(), row.end());
    }
    return values;
  }

  std::unique_ptr<Device> device_ = CreateDevice(GetParam(), {.threads = 2}).value();
};
INSTANTIATE_TEST_SUITE_P(Devices, FlowAttention, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return info.param; });

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

TEST_P(FlowAttention, WorkedByHand) {
  // Two tokens of one element: phi(+-ln 3) = 3/4 and 1/4, phi(0) = 1/2.
  const float uneven[] = {-std::log(3.0f), std::log(3.0f)};
  const float even[] = {0, 0};
  const float value[] = {2, 6};
  const int32_t offsets[] = {0, 2};
  const auto run = [&](const float* query, const float* key, bool causal) {
    return Run({.shape = {1, 1, 1},
                .query = {query, 2, 1},
                .key = {key, 2, 1},
                .value = {value, 2, 1},
                .offsets = offsets,
                .causal = causal});
  };
  constexpr double kNear = 3e-5;  // The worked numbers leave the 1e-6 of the definition out.
  // Alike tokens: the values' mean, of which sigmoid(1) is let in.
  std::vector<float> out = run(even, even, false);
  EXPECT_NEAR(out[0], Sigmoid(1) * 4, kNear);
  EXPECT_NEAR(out[1], Sigmoid(1) * 4, kNear);
  // The incoming flows 1/4 and 3/4 are conserved as 1/2 and 3/2.
  out = run(uneven, even, false);
  EXPECT_NEAR(out[0], Sigmoid(0.5) * 4, kNear);
  EXPECT_NEAR(out[1], Sigmoid(1.5) * 4, kNear);
  // Sources of 1/2 and 3/2, the latter clamped to 1, compete: softmax(1/2, 1) x 2, times their
  // capacities 1/4 and 3/4.
  const double first = 2 * Sigmoid(-0.5), second = 2 * Sigmoid(0.5);
  out = run(even, uneven, false);
  EXPECT_NEAR(out[0], Sigmoid(1) * (0.25 * first * 2 + 0.75 * second * 6), kNear);
  EXPECT_NEAR(out[1], out[0], 1e-6);
  // Causal, the first token sees itself alone.
  out = run(even, even, true);
  EXPECT_NEAR(out[0], Sigmoid(1) * 2, kNear);
  EXPECT_NEAR(out[1], Sigmoid(1) * 4, kNear);
}

/// One head as in the definition, by matrices over tokens [n][n]: what the devices' sums of vectors
/// are the short form of, but for the 1e-6.
std::vector<std::vector<double>> Oracle(ConstMatrix query, ConstMatrix key, ConstMatrix value,
                                        bool causal) {
  const int64_t n = query.rows;
  constexpr double e = 1e-6;
  const auto phi = [](ConstMatrix m, int64_t r, int64_t d) { return Sigmoid(m.row(r)[d]); };
  const auto seen = [&](int64_t t) { return causal ? static_cast<double>(t + 1) : 1.0; };
  const auto last = [&](int64_t t) { return causal ? t + 1 : n; };
  // (phi(a_t) + e) . (sum of w_u phi(b_u) + e)
  const auto flow = [&](ConstMatrix a, ConstMatrix b, int64_t t, auto weight) {
    double sum = 0;
    for (int64_t d = 0; d < a.cols; ++d) {
      double inner = e;
      for (int64_t u = 0; u < last(t); ++u) inner += weight(u) * phi(b, u, d);
      sum += (phi(a, t, d) + e) * inner;
    }
    return sum;
  };
  const auto one = [](int64_t) { return 1.0; };
  std::vector<double> in, out, sink, source;
  for (int64_t t = 0; t < n; ++t) {
    in.push_back(seen(t) / flow(query, key, t, one));
    out.push_back(seen(t) / flow(key, query, t, one));
  }
  for (int64_t t = 0; t < n; ++t) {
    sink.push_back(flow(query, key, t, [&](int64_t u) { return out[u]; }) / seen(t));
    source.push_back(std::min(
        1.0, std::max(-1.0, flow(key, query, t, [&](int64_t u) { return in[u]; }) / seen(t))));
  }
  std::vector<std::vector<double>> result;
  for (int64_t t = 0; t < n; ++t) {
    std::vector<double> row(value.cols, 0.0);
    for (int64_t u = 0; u < last(t); ++u) {
      double total = 0;  // Of those that u competes with.
      for (int64_t m = 0; m < last(u); ++m) total += std::exp(source[m]);
      const double competition =
          std::exp(source[u]) / total * (causal ? seen(u) : static_cast<double>(n));
      double capacity = 0;
      for (int64_t d = 0; d < query.cols; ++d) capacity += phi(query, t, d) * phi(key, u, d);
      for (int64_t c = 0; c < value.cols; ++c) {
        row[c] += Sigmoid(sink[t]) * in[t] / seen(t) * capacity * competition * value.row(u)[c];
      }
    }
    result.push_back(std::move(row));
  }
  return result;
}

TEST_P(FlowAttention, IsThatOfTheOracle) {
  RandomData random(51);
  const std::vector<int32_t> lengths = {1, 7, 0, 40, 2};
  const std::vector<int32_t> offsets = Offsets(lengths);
  for (const AttentionShape shape : {AttentionShape{3, 3, 8}, AttentionShape{4, 2, 5}}) {
    const int64_t wide = int64_t{shape.heads} * shape.head_dim;
    const int64_t narrow = int64_t{shape.kv_heads} * shape.head_dim;
    const MatrixBuffer q = random.Normal(50, wide, 2), k = random.Normal(50, narrow, 2);
    const MatrixBuffer v = random.Normal(50, narrow);
    for (const bool causal : {false, true}) {
      const std::vector<float> out = Run({.shape = shape,
                                          .query = q.view(),
                                          .key = k.view(),
                                          .value = v.view(),
                                          .offsets = offsets,
                                          .causal = causal});
      for (size_t s = 0; s < lengths.size(); ++s) {
        for (int32_t h = 0; h < shape.heads; ++h) {
          const auto part = [&](const MatrixBuffer& m, int32_t head) {
            const ConstMatrix all = m.view();
            return ConstMatrix(all.data + offsets[s] * all.stride + head * shape.head_dim,
                               lengths[s], shape.head_dim, all.stride);
          };
          const int32_t kv = h / (shape.heads / shape.kv_heads);
          const auto expected = Oracle(part(q, h), part(k, kv), part(v, kv), causal);
          for (int32_t t = 0; t < lengths[s]; ++t) {
            for (int32_t d = 0; d < shape.head_dim; ++d) {
              ASSERT_NEAR(out[(offsets[s] + t) * wide + h * shape.head_dim + d], expected[t][d],
                          5e-6)
                  << "causal " << causal << ", sequence " << s << ", head " << h;
            }
          }
        }
      }
    }
  }
}

TEST_P(FlowAttention, ASequenceHasTheSameBitsInAnyBatchAndACausalRowAtAnyLength) {
  RandomData random(52);
  constexpr AttentionShape kShape = {4, 4, 16};
  const MatrixBuffer q = random.Normal(90, 64), k = random.Normal(90, 64);
  const MatrixBuffer v = random.Normal(90, 64);
  const int32_t lengths[] = {30, 11, 49};
  const std::vector<int32_t> offsets = Offsets(lengths);
  for (const bool causal : {false, true}) {
    const auto run = [&](int64_t first, int64_t rows, std::span<const int32_t> parts) {
      const auto of = [&](const MatrixBuffer& m) {
        return ConstMatrix(m.view()).Rows(first, rows);
      };
      return Run({.shape = kShape,
                  .query = of(q),
                  .key = of(k),
                  .value = of(v),
                  .offsets = parts,
                  .causal = causal});
    };
    const std::vector<float> together = run(0, 90, offsets);
    for (size_t s = 0; s < std::size(lengths); ++s) {
      const int32_t alone[] = {0, lengths[s]};
      EXPECT_EQ(run(offsets[s], lengths[s], alone),
                std::vector<float>(together.begin() + offsets[s] * 64,
                                   together.begin() + offsets[s + 1] * 64));
    }
    if (!causal) continue;
    const int32_t beginning[] = {0, 17};  // Of the first sequence.
    EXPECT_EQ(run(0, 17, beginning),
              std::vector<float>(together.begin(), together.begin() + 17 * 64));
  }
}

TEST_P(FlowAttention, ShapesAreChecked) {
  const float x[] = {0, 0};
  const int32_t offsets[] = {0, 3};
  MatrixBuffer out(2, 1);
  EXPECT_EQ(device_
                ->FlowAttention({.shape = {1, 1, 1},
                                 .query = {x, 2, 1},
                                 .key = {x, 2, 1},
                                 .value = {x, 2, 1},
                                 .offsets = offsets},
                                out.view())
                .code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace thresher
