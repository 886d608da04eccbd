#include "backend/device/reference/cached_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/device/top_k.h"

namespace thresher {
namespace {

/// The heads of one KV head, on one sequence.
class Group {
 public:
  Group(const CachedAttentionInput& input, const CachedSequence& sequence, int32_t kv_head,
        Matrix out, CachedRecord* record)
      : input_(input), sequence_(sequence), kv_head_(kv_head), out_(out), record_(record) {}

  void Attend(int32_t row) {
    FindSlots(row);
    read_.assign(slots_.size(), 0);
    refetched_ = false;
    const int32_t heads = input_.shape.heads / input_.shape.kv_heads;
    for (int32_t h = kv_head_ * heads; h < (kv_head_ + 1) * heads; ++h) AttendHead(row, h);
    const KvLayout& layout = *input_.layout;
    const auto keys = static_cast<int64_t>(slots_.size());
    const bool lower = refetched_ || !sequence_.decode;
    record_->bytes += keys * static_cast<int64_t>(layout.upper_key_bytes() +
                                                  (lower ? layout.lower_key_bytes() : 0)) +
                      std::accumulate(read_.begin(), read_.end(), int64_t{0}) *
                          static_cast<int64_t>(layout.value_bytes());
  }

 private:
  void FindSlots(int32_t row) {
    slots_.clear();
    if (sequence_.decode && !sequence_.reads.empty()) {
      slots_.assign(sequence_.reads.begin(), sequence_.reads.end());
      return;
    }
    if (sequence_.decode && sequence_.ChoosesStretches(*input_.layout)) return ChooseStretches();
    const int32_t own = sequence_.slots - sequence_.rows + row;
    slots_.resize(static_cast<size_t>(sequence_.decode ? sequence_.slots : own + 1));
    std::iota(slots_.begin(), slots_.end(), 0);
  }

  /// Fills slots_ with those of the stretches whose bound is largest.
  void ChooseStretches() {
    const KvLayout& layout = *input_.layout;
    const int32_t dim = input_.shape.head_dim;
    const int32_t heads = input_.shape.heads / input_.shape.kv_heads;
    const int32_t length = layout.format().stretch;
    const int32_t newest = layout.Stretches(sequence_.slots) - 1;
    const float* const queries =
        input_.query.row(sequence_.first_row) + int64_t{kv_head_} * heads * dim;
    std::vector<float> least(static_cast<size_t>(dim)), greatest(static_cast<size_t>(dim));
    std::vector<double> bounds;  // But for the newest, which is read in any case.
    for (int32_t stretch = 0; stretch < newest; ++stretch) {
      std::byte* const page = sequence_.pages[stretch * length / kKvPageTokens];
      LoadBounds(layout, layout.bounds(page, input_.layer, kv_head_),
                 stretch % (kKvPageTokens / length), least.data(), greatest.data());
      double largest = -std::numeric_limits<double>::infinity();
      for (int32_t h = 0; h < heads; ++h) {
        double bound = 0.0;
        for (int32_t d = 0; d < dim; ++d) {
          const double q = queries[h * dim + d];
          bound += q > 0 ? q * greatest[d] : q * least[d];
        }
        // Whose bound is NaN has such a key, which must be seen.
        if (std::isnan(bound)) bound = std::numeric_limits<double>::infinity();
        largest = std::max(largest, bound);
      }
      bounds.push_back(largest);
    }
    const auto chosen = top_k_(bounds, sequence_.read_stretches - 1);
    record_->stretches.insert(record_->stretches.end(), chosen.begin(), chosen.end());
    record_->stretches.push_back(newest);
    for (const int32_t stretch : std::span(record_->stretches).last(chosen.size() + 1)) {
      const int32_t end = std::min(sequence_.slots, (stretch + 1) * length);
      for (int32_t slot = stretch * length; slot < end; ++slot) slots_.push_back(slot);
    }
    record_->bounds += int64_t{newest} * heads;
    record_->bytes += newest * static_cast<int64_t>(layout.bound_bytes());
  }

  void AttendHead(int32_t row, int32_t head) {
    const int32_t dim = input_.shape.head_dim;
    const float* const query = input_.query.row(sequence_.first_row + row) + int64_t{head} * dim;
    const bool planes = input_.layout->format().planes.has_value();
    record_->rows += 1;
    record_->scores += static_cast<int64_t>(slots_.size());
    double total = Softmax(query, planes && sequence_.decode);
    // The largest weight is exp(0) = 1.
    if (planes && sequence_.decode && 1.0 / total < sequence_.refetch_threshold) {
      record_->refetched_rows += 1;
      record_->refetched_scores += static_cast<int64_t>(slots_.size());
      refetched_ = true;
      total = Softmax(query, false);
    }
    if (sequence_.want_sums && row >= sequence_.sums_from) {
      const size_t slots = record_->sums.size() / static_cast<size_t>(input_.shape.kv_heads);
      int64_t* const sums = record_->sums.data() + static_cast<size_t>(kv_head_) * slots;
      for (size_t n = 0; n < slots_.size(); ++n) {
        sums[n] += std::llround(weights_[n] / total / kProbabilityUnit);
      }
    }
    const double keep = sequence_.decode ? sequence_.value_keep : 1.0;
    const auto read = top_k_(weights_, KeepCount(static_cast<int64_t>(slots_.size()), keep));
    record_->values += static_cast<int64_t>(read.size());
    std::vector<double> sum(static_cast<size_t>(dim), 0.0);
    row_.resize(static_cast<size_t>(dim));
    for (const int32_t n : read) {
      read_[n] = 1;
      const int32_t slot = slots_[n];
      LoadValueRow(
          *input_.layout,
          input_.layout->values(sequence_.pages[slot / kKvPageTokens], input_.layer, kv_head_),
          slot % kKvPageTokens, row_.data());
      for (int32_t d = 0; d < dim; ++d) sum[d] += weights_[n] * row_[d];
    }
    float* const to = out_.row(sequence_.first_row + row) + int64_t{head} * dim;
    for (int32_t d = 0; d < dim; ++d) to[d] = static_cast<float>(sum[d] / total);
  }

  /// Fills weights_ with exp(score - largest) and returns their sum.
  double Softmax(const float* query, bool upper_only) {
    const int32_t dim = input_.shape.head_dim;
    const KvLayout& layout = *input_.layout;
    row_.resize(static_cast<size_t>(dim));
    weights_.resize(slots_.size());
    double largest = -std::numeric_limits<double>::infinity();
    for (size_t n = 0; n < slots_.size(); ++n) {
      const int32_t slot = slots_[n];
      LoadKeyRow(layout, layout.keys(sequence_.pages[slot / kKvPageTokens], input_.layer, kv_head_),
                 slot % kKvPageTokens, upper_only, row_.data());
      if (layout.format().rotate_on_read) {
        RotateRow(*input_.rotary, sequence_.positions[slot], row_.data());
      }
      double dot = 0.0;
      for (int32_t d = 0; d < dim; ++d) dot += double{query[d]} * row_[d];
      weights_[n] = dot * input_.scale;
      largest = std::max(largest, weights_[n]);
    }
    double total = 0.0;
    for (double& weight : weights_) total += weight = std::exp(weight - largest);
    return total;
  }

  const CachedAttentionInput& input_;
  const CachedSequence& sequence_;
  const int32_t kv_head_;
  const Matrix out_;
  CachedRecord* const record_;
  std::vector<int32_t> slots_;
  std::vector<double> weights_;  // By slot of slots_.
  std::vector<uint8_t> read_;    // Likewise: whether a head read its V.
  bool refetched_ = false;
  std::vector<float> row_;
  TopK<double> top_k_;
};

}  // namespace

void ReferenceCachedAttention(const CachedAttentionInput& input, Matrix out,
                              std::span<CachedRecord> records) {
  for (size_t s = 0; s < input.sequences.size(); ++s) {
    const CachedSequence& sequence = input.sequences[s];
    records[s] = {};
    if (sequence.want_sums) {
      records[s].sums.assign(
          static_cast<size_t>(input.shape.kv_heads) * sequence.SlotsRead(*input.layout), 0);
    }
    for (int32_t h = 0; h < input.shape.kv_heads; ++h) {
      Group group(input, sequence, h, out, &records[s]);
      for (int32_t row = 0; row < sequence.rows; ++row) group.Attend(row);
    }
  }
}

}  // namespace thresher
