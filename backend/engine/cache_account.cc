#include "backend/engine/cache_account.h"

#include <utility>

#include "backend/engine/ledger.h"
#include "backend/sparsity/report.h"

namespace thresher {
namespace {

void Set(v1::PruningReport::Amount* amount, int64_t dense, int64_t done) {
  amount->set_dense(dense);
  amount->set_done(done);
}

/// Bytes of K and V of one token in one KV head, kept as plain elements.
int64_t PlainBytes(const KvLayout& layout) {
  return 2 * static_cast<int64_t>(layout.value_bytes());
}

}  // namespace

CacheAccount::CacheAccount(const PolicyShape& shape, const KvLayout& layout, std::string policy,
                           const ReportDetail& detail)
    : shape_(shape), layout_(layout) {
  report_.set_policy(std::move(policy));
  if (detail.layers) layers_.resize(static_cast<size_t>(shape.layers));
}

void CacheAccount::Add(int32_t layer, const CachedSequence& sequence, int32_t before,
                       const CachedRecord& record, const SpeculationRecord& speculation) {
  const int64_t rows = sequence.rows;
  // Row r would see all tokens before it and itself.
  const int64_t seen = rows * before + rows * (rows + 1) / 2;
  const int64_t pairs = shape_.heads * seen;
  const int64_t qkv = rows * (shape_.heads + 2 * shape_.kv_heads);
  v1::PruningReport::Work work;
  Set(work.mutable_tokens(), rows, rows);
  Set(work.mutable_heads(), rows * shape_.heads, rows * shape_.heads);
  Set(work.mutable_values(), pairs, record.values);
  Set(work.mutable_scores(), pairs, record.scores);
  Set(work.mutable_qkv_rows(), qkv, qkv);
  Set(work.mutable_ffn_full_precision(), rows, rows);
  Set(work.mutable_bytes(), shape_.kv_heads * seen * PlainBytes(layout_), record.bytes);
  work.set_softmax_rows(record.rows);
  work.set_refetched_rows(record.refetched_rows);
  work.set_predicted_scores(record.bounds);
  Set(work.mutable_ffn_outputs(), rows * shape_.ffn_size, rows * shape_.ffn_size);
  AddSpeculation(speculation, &work);
  AddWork(work, report_.mutable_total());
  if (sequence.decode) AddWork(work, report_.mutable_decode());
  if (!layers_.empty()) AddWork(work, &layers_[static_cast<size_t>(layer)]);
}

v1::PruningReport CacheAccount::Report(int32_t tokens, size_t held_bytes) const {
  v1::PruningReport report = report_;
  for (const v1::PruningReport::Work& layer : layers_) *report.add_layers() = layer;
  const int64_t dense = int64_t{tokens} * shape_.layers * shape_.kv_heads * PlainBytes(layout_);
  Set(report.mutable_kv_held(), dense, static_cast<int64_t>(held_bytes));
  return report;
}

}  // namespace thresher
