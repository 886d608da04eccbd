#include "backend/device/simulator/spatten/rows.h"

#include <algorithm>
#include <utility>

namespace thresher {
namespace {

/// Scores of the first `queries` of the head's queries.
int64_t ScoresUntil(const HeadRecord& head, int64_t queries, bool causal) {
  if (queries == head.queries) return head.scores;
  const auto count = static_cast<double>(head.queries);
  const auto longest = static_cast<double>(head.keys);
  // An arithmetic series from `shortest` to `longest` with the right sum.
  const double shortest = 2 * static_cast<double>(head.scores) / count - longest;
  if (causal && shortest >= 0) {
    const auto x = static_cast<double>(queries);
    const double step = head.queries > 1 ? (longest - shortest) / (count - 1) : 0;
    return static_cast<int64_t>(x * shortest + step * x * (x - 1) / 2);
  }
  return static_cast<int64_t>(static_cast<__int128>(head.scores) * queries / head.queries);
}

/// The part of `values` that falls to the first `scores` of the head's scores.
int64_t ValuesUntil(const HeadRecord& head, int64_t scores) {
  if (head.scores == 0) return 0;
  return static_cast<int64_t>(static_cast<__int128>(head.values) * scores / head.scores);
}

int32_t KvHeadOf(const LayerShape& shape, int32_t head) {
  return head / (shape.heads / shape.kv_heads);
}

}  // namespace

SpAttenRow RowOf(const HeadRecord& head, int64_t query, bool causal) {
  SpAttenRow row;
  const int64_t before = ScoresUntil(head, query, causal);
  const int64_t after = ScoresUntil(head, query + 1, causal);
  row.keys = static_cast<int32_t>(after - before);
  row.values = static_cast<int32_t>(ValuesUntil(head, after) - ValuesUntil(head, before));
  row.refetch = (query + 1) * head.refetched / head.queries > query * head.refetched / head.queries;
  return row;
}

SpAttenLoads::SpAttenLoads(const LayerRecord* record, std::vector<int32_t> fused_heads,
                           int32_t segment)
    : record_(record), fused_heads_(std::move(fused_heads)), segment_(segment) {}

bool SpAttenLoads::NextGroup() {
  first_key_ = 0;
  first_head_ = end_head_;
  while (sequence_ < static_cast<int32_t>(record_->sequences.size())) {
    const auto& heads = record_->sequences[sequence_].heads;
    if (first_head_ == static_cast<int32_t>(heads.size())) {
      ++sequence_;
      first_head_ = end_head_ = 0;
      continue;
    }
    const auto group_of = [&](int32_t index) {
      return KvHeadOf(record_->shape, heads[index].head) / fused_heads_[sequence_];
    };
    group_keys_ = 0;
    end_head_ = first_head_;
    while (end_head_ < static_cast<int32_t>(heads.size()) &&
           group_of(end_head_) == group_of(first_head_)) {
      group_keys_ = std::max(group_keys_, static_cast<int32_t>(heads[end_head_].keys));
      ++end_head_;
    }
    if (group_keys_ > 0) return true;
    first_head_ = end_head_;
  }
  return false;
}

std::optional<SpAttenLoad> SpAttenLoads::Next() {
  if (first_key_ >= group_keys_ && !NextGroup()) return std::nullopt;
  const SequenceRecord& sequence = record_->sequences[sequence_];
  SpAttenLoad load;
  load.sequence = sequence_;
  load.segment = first_key_ / segment_;
  load.first_key = first_key_;
  load.last = first_key_ + segment_ >= group_keys_;
  // A step of generation that reads fewer V rows than K rows chooses them row by row. Many queries
  // choose differently, so that all of V is wanted by one or the other.
  bool chooses = false;
  for (int32_t i = first_head_; i < end_head_; ++i) {
    chooses |= sequence.decode && sequence.heads[i].values < sequence.heads[i].scores;
  }
  load.loads_values = !chooses;
  for (int32_t i = first_head_; i < end_head_; ++i) {
    const HeadRecord& head = sequence.heads[i];
    const int32_t kv_head = KvHeadOf(record_->shape, head.head);
    if (load.sets.empty() || load.sets.back().kv_head != kv_head) {
      load.sets.push_back({.kv_head = kv_head, .first_head = i});
    }
    SpAttenSet& set = load.sets.back();
    ++set.heads;
    const auto keys =
        static_cast<int32_t>(std::clamp<int64_t>(head.keys - first_key_, 0, segment_));
    set.keys = std::max(set.keys, keys);
    if (load.loads_values) {
      set.values = std::max(set.values, static_cast<int32_t>(std::min<int64_t>(keys, head.values)));
    }
  }
  if (chooses) {
    SpAttenRows rows(*record_, &load);
    while (const auto row = rows.Next()) load.sets[row->set].values += row->values;
  }
  first_key_ += segment_;
  return load;
}

SpAttenRows::SpAttenRows(const LayerRecord& record, const SpAttenLoad* load)
    : sequence_(&record.sequences[load->sequence]), load_(load), causal_(record.shape.causal) {}

std::optional<SpAttenRow> SpAttenRows::Next() {
  while (set_ < static_cast<int32_t>(load_->sets.size())) {
    const SpAttenSet& set = load_->sets[set_];
    if (head_ == set.heads) {
      ++set_;
      head_ = ordinal_ = 0;
      query_ = 0;
      continue;
    }
    const HeadRecord& head = sequence_->heads[set.first_head + head_];
    if (query_ == head.queries) {
      ++head_;
      query_ = 0;
      continue;
    }
    SpAttenRow row = RowOf(head, query_, causal_);
    row.set = set_;
    row.head = set.first_head + head_;
    ++query_;
    // The part that lies in the segment, taking the row's keys to be the first ones.
    const int64_t all_keys = row.keys, all_values = row.values;
    const int64_t begin = std::min<int64_t>(all_keys, load_->first_key);
    const int64_t end = std::min<int64_t>(all_keys, load_->first_key + set.keys);
    if (end == begin) continue;
    row.keys = static_cast<int32_t>(end - begin);
    row.values = static_cast<int32_t>(all_values * end / all_keys - all_values * begin / all_keys);
    row.ordinal = ordinal_++;
    return row;
  }
  return std::nullopt;
}

}  // namespace thresher
