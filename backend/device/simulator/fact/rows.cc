#include "backend/device/simulator/fact/rows.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "backend/device/simulator/fact/geometry.h"

namespace thresher {
namespace {

/// The i-th part of `total` cut into `parts` nearly equal ones.
int64_t Part(int64_t total, int64_t i, int64_t parts) {
  return total * (i + 1) / parts - total * i / parts;
}

}  // namespace

FactRows::FactRows(const LayerRecord& record, int32_t sequence, int64_t places)
    : sequence_(record.sequences[sequence]), shape_(record.shape), places_(places) {
  const int32_t group = shape_.heads / shape_.kv_heads;
  for (const HeadRecord& head : sequence_.heads) {
    if (kv_heads_.empty() || kv_heads_.back() != head.head / group) {
      kv_heads_.push_back(head.head / group);
    }
  }
  by_place_.resize(static_cast<size_t>(places));
}

void FactRows::StartHead(const HeadRecord& head) {
  head_ = &head;
  row_ = 0;
  one_hot_left_ = sequence_.rows - head.queries;
  sight_before_ = sight_total_ = 0;
  scores_before_ = 0;
  const int32_t kv_head = head.head / (shape_.heads / shape_.kv_heads);
  if (kv_head != kv_head_) {
    // The first head that shares this K and V.
    kv_head_ = kv_head;
    const auto i = std::ranges::lower_bound(kv_heads_, kv_head) - kv_heads_.begin();
    const auto count = static_cast<int64_t>(kv_heads_.size());
    keys_ = {.total = Part(sequence_.key_rows, i, count)};
    values_ = {.total = Part(sequence_.value_rows, i, count)};
    if (sequence_.candidates != nullptr) {
      keys_.seen.resize(static_cast<size_t>(sequence_.rows));
      values_.seen.resize(static_cast<size_t>(sequence_.rows));
    }
  }
  if (sequence_.candidates != nullptr) return;
  for (int64_t row = 0; row < sequence_.rows; ++row) {
    if (Runs(row)) sight_total_ += static_cast<double>(SightOf(sequence_, shape_.causal, row));
  }
}

/// Where only the number of one-hot queries is known.
bool FactRows::Runs(int64_t row) const { return Part(head_->queries, row, sequence_.rows) > 0; }

FactRow FactRows::Next(std::vector<int32_t>* new_keys, std::vector<int32_t>* new_values) {
  const FactRow row = sequence_.candidates != nullptr ? FromMask(new_keys, new_values)
                                                      : FromCounts(new_keys, new_values);
  ++row_;
  return row;
}

FactRow FactRows::FromMask(std::vector<int32_t>* new_keys, std::vector<int32_t>* new_values) {
  const CandidateMask& mask = *sequence_.candidates;
  const uint64_t* const bits = mask.row(head_->head, static_cast<int32_t>(row_));
  FactRow row{.sight = SightOf(sequence_, shape_.causal, row_)};
  for (int32_t w = 0; w < mask.words(); ++w) row.keys += std::popcount(bits[w]);
  // A query of one key is among the one-hot ones, as long as there are such.
  row.one_hot = row.keys <= 1 && one_hot_left_ > 0;
  if (row.one_hot) --one_hot_left_;
  std::ranges::fill(by_place_, 0);
  const auto name = [](int32_t token, Named* named, std::vector<int32_t>* tokens) {
    if (named->seen[static_cast<size_t>(token)]) return;
    named->seen[static_cast<size_t>(token)] = true;
    ++named->count;
    tokens->push_back(token);
  };
  for (int32_t w = 0; w < mask.words(); ++w) {
    for (uint64_t rest = bits[w]; rest != 0; rest &= rest - 1) {
      const int32_t token = w * 64 + std::countr_zero(rest);
      ++by_place_[static_cast<size_t>(token % places_)];
      if (!row.one_hot) name(token, &keys_, new_keys);
      name(token, &values_, new_values);
    }
  }
  row.most = std::ranges::max(by_place_);
  return row;
}

FactRow FactRows::FromCounts(std::vector<int32_t>* new_keys, std::vector<int32_t>* new_values) {
  FactRow row{.sight = SightOf(sequence_, shape_.causal, row_), .one_hot = !Runs(row_)};
  if (row.one_hot) {
    row.keys = 1;
  } else {
    sight_before_ += static_cast<double>(row.sight);
    // One at least, as long as there are some.
    const int64_t scores = std::max(std::llround(static_cast<double>(head_->scores) *
                                                 sight_before_ / std::max(sight_total_, 1.0)),
                                    std::min<long long>(scores_before_ + 1, head_->scores));
    row.keys = scores - scores_before_;
    scores_before_ = scores;
  }
  row.most = FactGeometry::Up(row.keys, places_);
  NameEvenly(row, &keys_, new_keys);
  NameEvenly(row, &values_, new_values);
  return row;
}

/// The first query names as many as it reads, the later ones the rest in equal parts, and the last
/// one what is left.
void FactRows::NameEvenly(const FactRow& row, Named* named, std::vector<int32_t>* tokens) const {
  const int64_t first = std::min(row.keys, named->total);
  int64_t upto = named->total;
  if (row_ == 0 && sequence_.rows > 1) {
    upto = first;
  } else if (row_ + 1 < sequence_.rows) {
    const int64_t rows_left = sequence_.rows - row_;
    upto = named->count + FactGeometry::Up(named->total - named->count, rows_left);
    // None that the query does not see.
    if (shape_.causal) upto = std::min(upto, row_ + 1);
  }
  // Which ones they are nobody knows: the first ones stand for them.
  for (; named->count < upto; ++named->count) tokens->push_back(static_cast<int32_t>(named->count));
}

}  // namespace thresher
