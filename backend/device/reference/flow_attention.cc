#include "backend/device/reference/flow_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace thresher {
namespace {

constexpr double kEpsilon = 1e-6;

using Vectors = std::vector<std::vector<double>>;

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

/// phi of the rows of one head.
Vectors Phi(ConstMatrix m) {
  Vectors phi;
  for (int64_t r = 0; r < m.rows; ++r) {
    auto& row = phi.emplace_back();
    for (int64_t d = 0; d < m.cols; ++d) row.push_back(Sigmoid(m.row(r)[d]));
  }
  return phi;
}

double Dot(const std::vector<double>& a, const std::vector<double>& b, double added) {
  double sum = 0.0;
  for (size_t d = 0; d < a.size(); ++d) sum += (a[d] + added) * (b[d] + added);
  return sum;
}

/// (a_t + e) . (sum over the tokens that t sees of weights[u] b_u + e), for every token t.
std::vector<double> Flows(const Vectors& a, const Vectors& b, const std::vector<double>& weights,
                          bool causal) {
  std::vector<double> flows;
  for (size_t t = 0; t < a.size(); ++t) {
    std::vector<double> sum(a[t].size(), 0.0);
    for (size_t u = 0; u < (causal ? t + 1 : b.size()); ++u) {
      for (size_t d = 0; d < sum.size(); ++d) sum[d] += weights[u] * b[u][d];
    }
    flows.push_back(Dot(a[t], sum, kEpsilon));
  }
  return flows;
}

void AttendHead(ConstMatrix query, ConstMatrix key, ConstMatrix value, bool causal, Matrix out) {
  const auto n = static_cast<size_t>(query.rows);
  const Vectors q = Phi(query);
  const Vectors k = Phi(key);
  const std::vector<double> ones(n, 1.0);
  // What the causal form multiplies and divides by.
  const auto seen = [&](size_t t) { return causal ? static_cast<double>(t + 1) : 1.0; };

  std::vector<double> incoming = Flows(q, k, ones, causal);
  std::vector<double> outgoing = Flows(k, q, ones, causal);
  for (size_t t = 0; t < n; ++t) {
    incoming[t] = seen(t) / incoming[t];
    outgoing[t] = seen(t) / outgoing[t];
  }
  const std::vector<double> sinks = Flows(q, k, outgoing, causal);
  const std::vector<double> sources = Flows(k, q, incoming, causal);
  std::vector<double> competition;
  for (size_t t = 0; t < n; ++t)
    competition.push_back(std::exp(std::min(sources[t] / seen(t), 1.0)));
  double total = 0.0;
  for (const double c : competition) total += c;
  double so_far = 0.0;
  for (size_t t = 0; t < n; ++t) {
    so_far += competition[t];
    competition[t] *= causal ? seen(t) / so_far : static_cast<double>(n) / total;
  }
  for (size_t i = 0; i < n; ++i) {
    const auto row = static_cast<int64_t>(i);
    const double share = Sigmoid(sinks[i] / seen(i)) * incoming[i] / seen(i);
    for (int64_t d = 0; d < value.cols; ++d) {
      double sum = 0.0;
      for (size_t j = 0; j < (causal ? i + 1 : n); ++j) {
        sum += Dot(q[i], k[j], 0.0) * competition[j] * value.row(static_cast<int64_t>(j))[d];
      }
      out.row(row)[d] = static_cast<float>(share * sum);
    }
  }
}

}  // namespace

void ReferenceFlowAttention(const AttentionInput& input, Matrix out) {
  const auto [heads, kv_heads, head_dim] = input.shape;
  for (size_t s = 0; s + 1 < input.offsets.size(); ++s) {
    const int64_t begin = input.offsets[s];
    const int64_t rows = input.offsets[s + 1] - begin;
    if (rows == 0) continue;
    for (int32_t h = 0; h < heads; ++h) {
      const int64_t column = int64_t{h} * head_dim;
      const int64_t kv_column = int64_t{h / (heads / kv_heads)} * head_dim;
      AttendHead({input.query.row(begin) + column, rows, head_dim, input.query.stride},
                 {input.key.row(begin) + kv_column, rows, head_dim, input.key.stride},
                 {input.value.row(begin) + kv_column, rows, head_dim, input.value.stride},
                 input.causal, {out.row(begin) + column, rows, head_dim, out.stride});
    }
  }
}

}  // namespace thresher
