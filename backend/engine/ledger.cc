#include "backend/engine/ledger.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <vector>

#include "backend/device/plan_rows.h"

namespace thresher {
namespace {

using Amount = v1::PruningReport::Amount;
using Work = v1::PruningReport::Work;

void Set(Amount* amount, int64_t dense, int64_t done) {
  amount->set_dense(dense);
  amount->set_done(done);
}

int64_t Flags(const std::vector<uint8_t>& flags) {
  return std::accumulate(flags.begin(), flags.end(), int64_t{0});
}

/// Rows of Q, K and V that were generated, each counted once for each head.
int64_t GeneratedQkvRows(const PolicyShape& shape, int32_t rows, const SequencePlan* plan) {
  if (plan == nullptr || (!plan->heads && !plan->candidates && plan->one_hot.empty())) {
    return int64_t{rows} * (shape.heads + 2 * shape.kv_heads);
  }
  const GeneratedRows generated = RowsToGenerate(*plan, {.heads = shape.heads,
                                                         .kv_heads = shape.kv_heads,
                                                         .queries = rows,
                                                         .keys = rows,
                                                         .causal = shape.causal});
  return Flags(generated.query) + Flags(generated.key) + Flags(generated.value);
}

/// Bytes of K and V that the attention read. V is always float; K is float or the planes' bits.
int64_t BytesRead(const PolicyShape& shape, const SequencePlan* plan,
                  const AttentionRecord& record) {
  const int64_t dim = shape.head_dim;
  int64_t key_bits = record.scores * 32;
  if (plan != nullptr && plan->quantization) {
    key_bits = record.scores * plan->quantization->msb_bits +
               record.refetched_scores * plan->quantization->lsb_bits;
  }
  return (key_bits * dim + 7) / 8 + record.values * dim * 4;
}

/// Pairs of a query and a key that it sees.
int64_t PairsInSight(const PolicyShape& shape, int64_t rows) {
  if (!shape.attends) return 0;
  return shape.causal ? rows * (rows + 1) / 2 : rows * rows;
}

constexpr double kSinkThreshold = 0.3;
// Of the largest head's entropy.
constexpr double kCollapsed = 0.25;
constexpr double kOverloaded = 0.75;

/// Softmax rows of each head: of its queries those that are not one-hot.
std::vector<int64_t> SoftmaxRows(const SequencePlan& plan, const AttentionRecord& record) {
  const size_t heads = record.sink_sums.size();
  std::vector<int64_t> rows(heads, 0);
  std::vector<int32_t> running(heads);
  std::iota(running.begin(), running.end(), 0);
  if (plan.heads) running = *plan.heads;
  for (const int32_t h : running) {
    if (plan.one_hot.empty()) {
      rows[h] = record.rows / static_cast<int64_t>(running.size());
      continue;
    }
    const auto queries = static_cast<std::ptrdiff_t>(plan.one_hot.size() / heads);
    rows[h] = std::count(plan.one_hot.begin() + h * queries,
                         plan.one_hot.begin() + (h + 1) * queries, -1);
  }
  return rows;
}

}  // namespace

Work LayerWork(const PolicyShape& shape, int32_t dense_rows, int32_t rows, const SequencePlan* plan,
               bool predicted, const AttentionRecord& record) {
  const int64_t n = dense_rows;
  const int64_t pairs = shape.heads * PairsInSight(shape, n);
  const int64_t heads =
      plan != nullptr && plan->heads ? static_cast<int64_t>(plan->heads->size()) : shape.heads;
  int64_t low = 0;
  if (plan != nullptr) low = Flags(plan->ffn_low_precision);
  Work work;
  Set(work.mutable_tokens(), n, rows);
  Set(work.mutable_heads(), shape.heads, heads);
  Set(work.mutable_values(), pairs, record.values);
  Set(work.mutable_scores(), pairs, record.scores);
  Set(work.mutable_qkv_rows(), n * (shape.heads + 2 * shape.kv_heads),
      GeneratedQkvRows(shape, rows, plan));
  Set(work.mutable_ffn_full_precision(), n, rows - low);
  Set(work.mutable_ffn_outputs(), n * shape.ffn_size, int64_t{rows} * shape.ffn_size);
  Set(work.mutable_bytes(), pairs * shape.head_dim * 8, BytesRead(shape, plan, record));
  work.set_softmax_rows(record.rows);
  work.set_refetched_rows(record.refetched_rows);
  if (predicted) {
    // Before anything is chosen: every row, in every head that is present. Heads that share K and V
    // are dropped together.
    const int64_t kv_heads = heads / (shape.heads / shape.kv_heads);
    work.set_predicted_rows(rows * (heads + kv_heads));
    work.set_predicted_scores(heads * PairsInSight(shape, rows));
  }
  return work;
}

void AddSpeculation(const SpeculationRecord& record, Work* work) {
  work->mutable_ffn_outputs()->set_done(work->ffn_outputs().done() - record.skipped);
  work->set_predicted_outputs(work->predicted_outputs() + record.predicted);
  if (!record.wrong) return;
  work->set_wrongly_skipped_outputs(work->wrongly_skipped_outputs() + *record.wrong);
}

void AttentionDistribution::Add(const SequencePlan& plan, bool first_present,
                                const AttentionRecord& record) {
  if (!plan.wanted.distribution) return;
  const std::vector<int64_t> rows = SoftmaxRows(plan, record);
  for (size_t h = 0; h < rows.size(); ++h) {
    if (rows[h] == 0) continue;
    entropy_ += record.entropy_sums[h];
    entropies_.push_back(record.entropy_sums[h] / static_cast<double>(rows[h]));
  }
  rows_ += record.rows;
  if (!first_present) return;
  sink_ += std::accumulate(record.sink_sums.begin(), record.sink_sums.end(), 0.0);
  sink_rows_ += record.rows;
  for (size_t h = 0; h < rows.size(); ++h) {
    if (rows[h] == 0) continue;
    ++heads_;
    if (record.sink_sums[h] > kSinkThreshold * static_cast<double>(rows[h])) ++sink_heads_;
  }
}

void AttentionDistribution::Fill(v1::PruningReport* report) const {
  if (entropies_.empty()) return;
  report->set_attention_entropy(entropy_ / static_cast<double>(rows_));
  const double largest = *std::ranges::max_element(entropies_);
  const auto share = [&](auto is) {
    return static_cast<double>(std::ranges::count_if(entropies_, is)) /
           static_cast<double>(entropies_.size());
  };
  report->set_collapsed_heads(share([&](double e) { return e <= kCollapsed * largest; }));
  report->set_overloaded_heads(share([&](double e) { return e > kOverloaded * largest; }));
  if (sink_rows_ == 0) return;
  report->set_sink_share(sink_ / static_cast<double>(sink_rows_));
  report->set_sink_heads(static_cast<double>(sink_heads_) / static_cast<double>(heads_));
}

}  // namespace thresher
