#include "backend/engine/layer_pricing.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>

#include "absl/time/clock.h"
#include "backend/device/plan_rows.h"
#include "backend/device/simulator/simulation.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// `total` in as many whole parts as there are heads, in proportion to `weight` of each: the parts
/// sum to it, and none is more than its weight unless `total` is more than all weights.
template <typename Weight>
void Spread(int64_t total, std::vector<HeadRecord>& heads, int64_t HeadRecord::*part,
            Weight weight) {
  if (heads.empty()) return;
  __int128 all = 0;
  for (const HeadRecord& head : heads) all += weight(head);
  __int128 so_far = 0;
  int64_t given = 0;
  for (HeadRecord& head : heads) {
    so_far += weight(head);
    const auto upto = all > 0 ? static_cast<int64_t>(so_far * total / all) : int64_t{0};
    head.*part = upto - given;
    given = upto;
  }
  heads.back().*part += total - given;  // Nothing, unless no head has any weight.
}

/// Where single keys were chosen: each head's own counts.
void CountCandidates(const SequencePlan& plan, std::vector<HeadRecord>& heads) {
  const CandidateMask& mask = *plan.candidates;
  std::vector<uint64_t> any(static_cast<size_t>(mask.words()));
  for (HeadRecord& head : heads) {
    std::ranges::fill(any, 0);
    head.scores = 0;
    for (int32_t q = 0; q < mask.queries(); ++q) {
      const size_t at = static_cast<size_t>(head.head) * mask.queries() + q;
      if (!plan.one_hot.empty() && plan.one_hot[at] >= 0) continue;
      const uint64_t* const row = mask.row(head.head, q);
      for (int32_t w = 0; w < mask.words(); ++w) {
        head.scores += std::popcount(row[w]);
        any[static_cast<size_t>(w)] |= row[w];
      }
    }
    head.keys = 0;
    for (const uint64_t word : any) head.keys += std::popcount(word);
  }
}

/// Queries of a head that score nothing and copy one V row.
int64_t OneHotQueries(const SequencePlan* plan, int32_t rows, int32_t head) {
  if (plan == nullptr || plan->one_hot.empty()) return 0;
  const auto first = plan->one_hot.begin() + static_cast<ptrdiff_t>(head) * rows;
  return std::count_if(first, first + rows, [](int32_t key) { return key >= 0; });
}

int64_t Flags(const std::vector<uint8_t>& flags) {
  return std::accumulate(flags.begin(), flags.end(), int64_t{0});
}

void SetGenerated(const PolicyShape& shape, int32_t rows, const SequencePlan* plan,
                  SequenceRecord* out) {
  if (plan == nullptr || (!plan->heads && !plan->candidates && plan->one_hot.empty())) {
    out->query_rows = int64_t{rows} * shape.heads;
    out->key_rows = out->value_rows = int64_t{rows} * shape.kv_heads;
    return;
  }
  const GeneratedRows generated = RowsToGenerate(*plan, {.heads = shape.heads,
                                                         .kv_heads = shape.kv_heads,
                                                         .queries = rows,
                                                         .keys = rows,
                                                         .causal = shape.causal});
  out->query_rows = Flags(generated.query);
  out->key_rows = Flags(generated.key);
  out->value_rows = Flags(generated.value);
}

int64_t Queries(const HeadRecord& head) { return head.queries; }
int64_t Scores(const HeadRecord& head) { return head.scores; }

std::vector<HeadRecord> Heads(int32_t count) {
  std::vector<HeadRecord> heads(static_cast<size_t>(count));
  for (int32_t h = 0; h < count; ++h) heads[static_cast<size_t>(h)].head = h;
  return heads;
}

}  // namespace

absl::Status CheckHardware(Device& device, const Policy& policy) {
  const SimulatedHardware* const hardware = device.simulated();
  if (hardware == nullptr) return absl::OkStatus();
  return CheckHardware(device.description().name, hardware->accelerator->policies(), policy);
}

absl::Status CheckHardware(std::string_view who, std::span<const std::string_view> known,
                           const Policy& policy) {
  const std::string names = policy.name();
  for (size_t begin = 0; begin <= names.size();) {
    const size_t end = std::min(names.find('+', begin), names.size());
    const std::string_view name = std::string_view(names).substr(begin, end - begin);
    if (std::ranges::find(known, name) == known.end()) {
      return InvalidArgument("{} has no hardware for the policy '{}'; it has for: {}", who, name,
                             fmt::join(known, ", "));
    }
    begin = end + 1;
  }
  return absl::OkStatus();
}

SequenceRecord RecordOf(const PolicyShape& shape, int32_t dense_rows,
                        std::span<const int32_t> positions, const SequencePlan* plan,
                        int32_t prediction_bits, const AttentionRecord& record, int32_t kept_rows,
                        int32_t kept_heads) {
  const auto rows = static_cast<int32_t>(positions.size());
  SequenceRecord out;
  out.rows = out.keys = rows;
  out.dense_rows = out.dense_keys = dense_rows;
  if (plan != nullptr && plan->heads) {
    for (const int32_t head : *plan->heads) out.heads.push_back({.head = head});
  } else {
    out.heads = Heads(shape.heads);
  }
  int64_t copied = 0;  // V rows of one-hot queries.
  for (HeadRecord& head : out.heads) {
    head.queries = rows - OneHotQueries(plan, rows, head.head);
    copied += rows - head.queries;
  }
  if (plan != nullptr && plan->candidates) {
    CountCandidates(*plan, out.heads);
    out.candidates = &*plan->candidates;
  } else {
    Spread(record.scores, out.heads, &HeadRecord::scores, Queries);
    for (HeadRecord& head : out.heads) head.keys = rows;
  }
  Spread(record.values - copied, out.heads, &HeadRecord::values, Scores);
  for (HeadRecord& head : out.heads) head.values += rows - head.queries;
  Spread(record.refetched_rows, out.heads, &HeadRecord::refetched, Queries);
  if (plan != nullptr && plan->quantization) {
    out.bits = {.query = plan->quantization->msb_bits + plan->quantization->lsb_bits,
                .key = plan->quantization->msb_bits,
                .key_refetch = plan->quantization->lsb_bits};
    out.refetch_threshold = plan->quantization->threshold;
  }
  if (rows < dense_rows) out.positions.assign(positions.begin(), positions.end());
  if (kept_rows < rows) {
    out.top_k_from = rows;
    out.top_k = kept_rows;
  }
  if (const auto heads = static_cast<int32_t>(out.heads.size()); kept_heads < heads) {
    out.head_top_k_from = heads;
    out.head_top_k = kept_heads;
  }
  SetGenerated(shape, rows, plan, &out);
  if (prediction_bits > 0) {
    const auto heads = static_cast<int64_t>(out.heads.size());
    const int64_t kv_heads = heads / (shape.heads / shape.kv_heads);
    out.predicted_rows = rows * (heads + kv_heads);
    out.predicted_scores =
        heads * (shape.causal ? int64_t{rows} * (rows + 1) / 2 : int64_t{rows} * rows);
    out.prediction_bits = prediction_bits;
  }
  if (plan != nullptr) {
    out.accumulates_importance = plan->wanted.column_sums;
    out.accumulates_head_importance = plan->wanted.head_l1;
    out.ffn_low_rows = static_cast<int32_t>(Flags(plan->ffn_low_precision));
    if (out.ffn_low_rows > 0) out.ffn_low_bits = plan->ffn_low_bits;
  }
  return out;
}

SequenceRecord RecordOf(const PolicyShape& shape, const KvLayout& layout,
                        const CachedSequence& sequence, int32_t before, const CachedRecord& record,
                        bool rescales) {
  SequenceRecord out;
  out.rows = out.dense_rows = sequence.rows;
  out.keys = sequence.slots;
  out.dense_keys = before + sequence.rows;
  out.decode = sequence.decode;
  out.heads = Heads(shape.heads);
  const auto alike = [](const HeadRecord&) { return 1; };
  const int64_t read = sequence.SlotsRead(layout);
  for (HeadRecord& head : out.heads) head.keys = read;
  Spread(record.rows, out.heads, &HeadRecord::queries, alike);
  Spread(record.scores, out.heads, &HeadRecord::scores, Queries);
  Spread(record.values, out.heads, &HeadRecord::values, Scores);
  Spread(record.refetched_rows, out.heads, &HeadRecord::refetched, Queries);
  if (layout.format().planes) {
    const KeyPlanes& planes = *layout.format().planes;
    out.bits = {.query = planes.msb_bits + planes.lsb_bits,
                .key = planes.msb_bits,
                .key_refetch = planes.lsb_bits};
    out.refetch_threshold = sequence.refetch_threshold;
  }
  if (!sequence.reads.empty()) {
    out.positions.assign(sequence.reads.begin(), sequence.reads.end());
    out.top_k_from = sequence.slots;
    out.top_k = static_cast<int32_t>(read);
  }
  out.accumulates_importance = sequence.want_sums;
  out.rescales_importance = rescales;
  out.query_rows = int64_t{sequence.rows} * shape.heads;
  out.key_rows = out.value_rows = int64_t{sequence.rows} * shape.kv_heads;
  return out;
}

LayerPricing::LayerPricing(Device& device, const PolicyShape& shape, LayerRecorder* recorder)
    : hardware_(device.simulated()),
      recorder_(recorder),
      attends_(shape.attends),
      begin_(absl::Now()) {
  record_.shape = {.layers = shape.layers,
                   .heads = shape.heads,
                   .kv_heads = shape.kv_heads,
                   .head_dim = shape.head_dim,
                   .hidden_size = shape.hidden_size,
                   .ffn_size = shape.ffn_size,
                   .ffn_matrices = shape.ffn_matrices,
                   .causal = shape.causal};
  if (hardware_ != nullptr) hardware_->accelerator->Reset();
}

absl::Status LayerPricing::Price(int32_t layer, std::vector<SequenceRecord> sequences,
                                 std::span<v1::Simulation* const> charges) {
  if (!attends_) return Unimplemented("flow-attention can be neither simulated nor recorded");
  record_.layer = layer;
  record_.sequences = std::move(sequences);
  if (recorder_ != nullptr) recorder_->Write(record_);
  if (hardware_ == nullptr) return absl::OkStatus();
  THRESHER_ASSIGN_OR_RETURN(const LayerCharge charge, hardware_->accelerator->Run(record_, {}));
  if (charge.shares.size() != charges.size()) {
    return Internal("the accelerator charged {} sequences of {}", charge.shares.size(),
                    charges.size());
  }
  for (size_t s = 0; s < charges.size(); ++s) {
    AddSimulation(ShareOf(charge.total, charge.shares[s]), charges[s]);
  }
  seconds_ += charge.total.seconds();
  return absl::OkStatus();
}

void LayerPricing::Finish() const {
  if (hardware_ == nullptr || hardware_->pace == 0.0) return;
  const absl::Duration left = begin_ + absl::Seconds(seconds_ * hardware_->pace) - absl::Now();
  if (left > absl::ZeroDuration()) absl::SleepFor(left);
}

}  // namespace thresher
