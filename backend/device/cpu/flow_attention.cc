#include "backend/device/cpu/flow_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace thresher {
namespace {

constexpr double kEpsilon = 1e-6;

float Sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

/// Memory of one head of one sequence, for the longest of them.
struct HeadMemory {
  HeadMemory(int64_t tokens, int64_t dim)
      : query(static_cast<size_t>(tokens * dim)),
        key(query.size()),
        state(static_cast<size_t>(dim * dim)),
        sum(static_cast<size_t>(dim)),
        incoming(static_cast<size_t>(tokens)),
        outgoing(incoming.size()),
        sinks(incoming.size()),
        sources(incoming.size()) {}

  std::vector<float> query, key;  // phi, [tokens, dim]
  std::vector<float> state;       // [dim, dim]: the sum of phi(k)^T c v.
  std::vector<double> sum;        // Of weighted phi.
  std::vector<double> incoming, outgoing, sinks, sources;
};

/// One head of one sequence.
class FlowHead {
 public:
  FlowHead(ConstMatrix query, ConstMatrix key, ConstMatrix value, bool causal, HeadMemory& memory)
      : value_(value), tokens_(query.rows), dim_(query.cols), causal_(causal), memory_(memory) {
    Phi(query, memory.query);
    Phi(key, memory.key);
  }

  void Run(Matrix out) {
    HeadMemory& m = memory_;
    Flow(m.query, m.key, {}, m.incoming);
    Flow(m.key, m.query, {}, m.outgoing);
    for (int64_t t = 0; t < tokens_; ++t) {
      m.incoming[t] = Seen(t) / m.incoming[t];
      m.outgoing[t] = Seen(t) / m.outgoing[t];
    }
    Flow(m.query, m.key, m.outgoing, m.sinks);
    Flow(m.key, m.query, m.incoming, m.sources);
    Compete();
    std::ranges::fill(m.state, 0.0f);
    if (!causal_) {
      for (int64_t t = 0; t < tokens_; ++t) AddToState(t);
    }
    for (int64_t t = 0; t < tokens_; ++t) {
      if (causal_) AddToState(t);
      const double allocated = 1.0 / (1.0 + std::exp(-m.sinks[t] / Seen(t)));
      Answer(t, static_cast<float>(allocated * m.incoming[t] / Seen(t)), out.row(t));
    }
  }

 private:
  static void Phi(ConstMatrix m, std::vector<float>& phi) {
    for (int64_t r = 0; r < m.rows; ++r) {
      std::transform(m.row(r), m.row(r) + m.cols, phi.data() + r * m.cols, Sigmoid);
    }
  }

  /// What the causal form multiplies and divides by.
  double Seen(int64_t token) const { return causal_ ? static_cast<double>(token + 1) : 1.0; }

  /// flows[t] = (a_t + e) . (sum over the tokens that t sees of weights[u] b_u + e). No weights: 1.
  void Flow(const std::vector<float>& a, const std::vector<float>& b,
            std::span<const double> weights, std::vector<double>& flows) const {
    std::vector<double>& sum = memory_.sum;
    std::ranges::fill(sum, 0.0);
    const auto add = [&](int64_t t) {
      const double weight = weights.empty() ? 1.0 : weights[t];
      for (int64_t d = 0; d < dim_; ++d) sum[d] += weight * b[t * dim_ + d];
    };
    if (!causal_) {
      for (int64_t t = 0; t < tokens_; ++t) add(t);
    }
    for (int64_t t = 0; t < tokens_; ++t) {
      if (causal_) add(t);
      double flow = 0.0;
      for (int64_t d = 0; d < dim_; ++d) flow += (a[t * dim_ + d] + kEpsilon) * (sum[d] + kEpsilon);
      flows[t] = flow;
    }
  }

  /// Sources become the weights of their values.
  void Compete() {
    const std::span<double> sources = std::span(memory_.sources).first(tokens_);
    double total = 0.0;  // Of the tokens so far.
    for (int64_t t = 0; t < tokens_; ++t) {
      const double e = std::exp(std::min(sources[t] / Seen(t), 1.0));
      total += e;
      sources[t] = causal_ ? e * Seen(t) / total : e;
    }
    if (causal_) return;
    for (double& source : sources) source *= static_cast<double>(tokens_) / total;
  }

  void AddToState(int64_t t) {
    const float* const v = value_.row(t);
    const auto competition = static_cast<float>(memory_.sources[t]);
    for (int64_t d = 0; d < dim_; ++d) {
      const float weight = memory_.key[t * dim_ + d] * competition;
      float* const row = memory_.state.data() + d * dim_;
      for (int64_t c = 0; c < dim_; ++c) row[c] += weight * v[c];
    }
  }

  void Answer(int64_t t, float share, float* out) const {
    std::fill_n(out, dim_, 0.0f);
    for (int64_t d = 0; d < dim_; ++d) {
      const float weight = memory_.query[t * dim_ + d] * share;
      const float* const row = memory_.state.data() + d * dim_;
      for (int64_t c = 0; c < dim_; ++c) out[c] += weight * row[c];
    }
  }

  const ConstMatrix value_;
  const int64_t tokens_;
  const int64_t dim_;
  const bool causal_;
  HeadMemory& memory_;
};

}  // namespace

void LinearFlowAttention(const AttentionInput& input, Matrix out, ThreadPool* pool) {
  const int64_t heads = input.shape.heads;
  const int64_t group = heads / input.shape.kv_heads;
  const int64_t head_dim = input.shape.head_dim;
  const std::span<const int32_t> offsets = input.offsets;
  int64_t longest = 0;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    longest = std::max<int64_t>(longest, offsets[s + 1] - offsets[s]);
  }
  if (longest == 0) return;
  std::vector<HeadMemory> memory(static_cast<size_t>(pool->threads()),
                                 HeadMemory(longest, head_dim));
  const auto tasks = static_cast<int64_t>(offsets.size() - 1) * heads;
  const int64_t work = 2 * out.rows * heads * head_dim * head_dim;
  pool->ForTasks(tasks, work, [&](int64_t task, int worker) {
    const int64_t begin = offsets[static_cast<size_t>(task / heads)];
    const int64_t rows = offsets[static_cast<size_t>(task / heads) + 1] - begin;
    if (rows == 0) return;
    const int64_t head = task % heads;
    const int64_t column = head * head_dim;
    const int64_t kv_column = head / group * head_dim;
    const ConstMatrix query(input.query.row(begin) + column, rows, head_dim, input.query.stride);
    const ConstMatrix key(input.key.row(begin) + kv_column, rows, head_dim, input.key.stride);
    const ConstMatrix value(input.value.row(begin) + kv_column, rows, head_dim, input.value.stride);
    FlowHead(query, key, value, input.causal, memory[static_cast<size_t>(worker)])
        .Run({out.row(begin) + column, rows, head_dim, out.stride});
  });
}

}  // namespace thresher
