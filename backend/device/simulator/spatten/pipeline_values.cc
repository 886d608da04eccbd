// The second half of the pipeline: top-k, V, P.V.
#include <algorithm>
#include <utility>

#include "backend/device/simulator/spatten/geometry.h"
#include "backend/device/simulator/spatten/pipeline.h"

namespace thresher {

bool SpAttenPipeline::EnterTopK() {
  if (decided_.empty()) return false;
  const uint32_t id = decided_.front();
  const Row& row = rows_[id];
  if (!Chooses(row)) {  // Passes by.
    if (loads_.at(row.load).plan.loads_values) {
      if (row.plan.values > chosen_room_) return false;
      chosen_room_ -= row.plan.values;
    }
    decided_.pop_front();
    probability_room_ += row.plan.keys;
    At(now_ + spec_.latency().top_k_skip(), kPassed, id);
    Choose(id);
    return true;
  }
  // The queue that a row comes in by is the one that it is selected and streams out from, unless
  // there are two.
  if (entering_ || in_top_k_ || (selecting_ && !spec_.top_k().double_buffered())) return false;
  decided_.pop_front();
  if (!row.ranking) probability_room_ += row.plan.keys;
  entering_ = id;
  At(now_ + StreamCycles(row.plan.keys), kInTopK, id);
  return true;
}

bool SpAttenPipeline::StartSelection() {
  if (!in_top_k_ || selecting_ || (streaming_ && !spec_.top_k().double_buffered())) return false;
  selecting_ = std::exchange(in_top_k_, std::nullopt);
  const Row& row = rows_[*selecting_];
  const TopKEngine::Cost cost = top_k_->Rank(row.plan.keys, row.plan.values);
  work_[row.sequence].comparisons += cost.comparisons;
  selection_begin_ = now_;
  At(now_ + cost.cycles, kSelected, *selecting_);
  return true;
}

bool SpAttenPipeline::StartStream() {
  if (!selected_ || streaming_) return false;
  const Row& row = rows_[*selected_];
  if (!row.ranking && loads_.at(row.load).plan.loads_values) {
    if (row.plan.values > chosen_room_) return false;
    chosen_room_ -= row.plan.values;
  }
  streaming_ = std::exchange(selected_, std::nullopt);
  selecting_.reset();
  const int64_t end = now_ + StreamCycles(row.plan.keys);
  At(end, kStreamed, *streaming_);
  Show(kTopK, row, selection_begin_, end);
  if (!row.ranking) Choose(*streaming_);
  return true;
}

bool SpAttenPipeline::Chooses(const Row& row) const { return row.plan.values < row.plan.keys; }

void SpAttenPipeline::Choose(uint32_t id) {
  const Row& row = rows_[id];
  Load& load = loads_.at(row.load);
  if (load.plan.loads_values) {
    multiplying_.push_back(id);
    return;
  }
  // Heads that share words wait for each other.
  const bool fuses = layouts_[row.sequence].fuses_values();
  std::vector<uint32_t>& together = load.choosing[row.plan.ordinal];
  together.push_back(id);
  if (fuses && together.size() < load.choosers.at(row.plan.ordinal)) return;
  load.chosen.push_back(std::move(together));
  load.choosing.erase(row.plan.ordinal);
  with_choice_.push_back(row.load);
}

bool SpAttenPipeline::FetchChosen() {
  bool moved = false;
  for (auto it = with_choice_.begin(); it != with_choice_.end();) {
    Load& load = loads_.at(*it);
    const std::vector<uint32_t>& together = load.chosen.front();
    int64_t values = 0;
    int32_t most_keys = 0;
    std::vector<SpAttenLayout::Rows> rows;
    for (const uint32_t id : together) {
      const SpAttenRow& plan = rows_[id].plan;
      values += plan.values;
      most_keys = std::max(most_keys, plan.keys);
      rows.push_back({load.plan.sets[plan.set].kv_head, plan.values});
    }
    if (values > load.values_room) {
      ++it;
      continue;
    }
    load.values_room -= values;
    const SpAttenLayout& layout = layouts_[load.plan.sequence];
    std::sort(rows.begin(), rows.end(),
              [](const auto& a, const auto& b) { return a.kv_head < b.kv_head; });
    CountFetch(load.plan.sequence, values, layout.value_bits());
    // One job: it comes to all of them together.
    const uint32_t last = together.back();
    Fetch(FetchClass::kValue, kValuesCame, last,
          layout.Values(rows, load.plan.first_key, most_keys));
    multiplying_.insert(multiplying_.end(), together.begin(), together.end());
    rows_[last].together = std::move(load.chosen.front());
    load.chosen.pop_front();
    it = with_choice_.erase(it);
    moved = true;
  }
  return moved;
}

bool SpAttenPipeline::StartPv() {
  if (pv_free_ > now_ || !PvCause().empty()) return false;
  const uint32_t id = multiplying_.front();
  multiplying_.pop_front();
  const Row& row = rows_[id];
  int64_t cycles = std::max<int64_t>(1, ArrayCycles(row.plan.values, head_dim_, spec_));
  if (loads_.at(row.load).plan.segment > 0) {
    cycles += DivideUp(2 * static_cast<int64_t>(head_dim_), spec_.multipliers());
  }
  pv_free_ = now_ + cycles;
  ++outputs_;
  At(pv_free_, kMultiplied, id);
  At(pv_free_ + spec_.latency().pv(), kFinished, id);
  Show(kPv, row, now_, pv_free_);
  const int64_t elements = static_cast<int64_t>(row.plan.values) * head_dim_;
  SpAttenWork& work = work_[row.sequence];
  work.value_products += elements;
  work.sram_bits += elements * spec_.element_bits();
  return true;
}

void SpAttenPipeline::Finish(uint32_t id) {
  const Row& row = rows_[id];
  Load& load = loads_.at(row.load);
  const SpAttenLayout& layout = layouts_[row.sequence];
  const bool partial = !load.plan.last;
  SpAttenWork& work = work_[row.sequence];
  ++work.outputs;
  if (record_.sequences[row.sequence].accumulates_head_importance) work.accumulated += head_dim_;
  work.plain_bits += layout.output_bits(partial);
  Fetch(FetchClass::kOutput, kOutputTaken, 0, layout.Output(row.number, partial));
  if (!load.plan.loads_values) load.values_room += row.plan.values;
  --load.unfinished;
  free_rows_.push_back(id);
  ReleaseLoad(row.load);
}

void SpAttenPipeline::ReleaseLoad(uint32_t id) {
  const Load& load = loads_.at(id);
  // Keys and values may come that no row reads.
  if (!load.all_made || load.unfinished > 0 || !load.keys_came()) return;
  if (load.plan.loads_values && !load.values_came) return;
  value_room_ += load.values_held;
  loads_.erase(id);
  RankHeads();
}

/// When the last probabilities of a sequence are there.
void SpAttenPipeline::RankTokens() {
  for (; next_ranking_ < static_cast<int32_t>(record_.sequences.size()); ++next_ranking_) {
    const int32_t sequence = next_ranking_;
    if (next_load_.has_value() && next_load_->sequence <= sequence) return;
    if (!making_.empty() && loads_.at(making_.front()).plan.sequence <= sequence) return;
    if (undecided_[sequence] > 0) return;
    const SequenceRecord& record = record_.sequences[sequence];
    Rank(sequence, "tokens", record.top_k_from, record.top_k);
  }
}

/// When its last outputs have left.
void SpAttenPipeline::RankHeads() {
  for (; next_head_ranking_ < static_cast<int32_t>(record_.sequences.size());
       ++next_head_ranking_) {
    const int32_t sequence = next_head_ranking_;
    if (next_load_.has_value() && next_load_->sequence <= sequence) return;
    for (const auto& [id, load] : loads_) {
      if (load.plan.sequence <= sequence) return;
    }
    const SequenceRecord& record = record_.sequences[sequence];
    Rank(sequence, "heads", record.head_top_k_from, record.head_top_k);
  }
}

void SpAttenPipeline::Rank(int32_t sequence, const char* what, int32_t from, int32_t kept) {
  if (kept <= 0 || kept >= from) return;
  Row row;
  row.ranking = what;
  row.sequence = sequence;
  row.plan.keys = from;
  row.plan.values = kept;
  ++rankings_;
  decided_.push_back(NewRow(std::move(row)));
}

}  // namespace thresher
