// The first half of the pipeline: loads of K, rows, Q.K, softmax, decision.
#include <algorithm>

#include "backend/device/simulator/spatten/geometry.h"
#include "backend/device/simulator/spatten/pipeline.h"

namespace thresher {

bool SpAttenPipeline::BeginLoad() {
  if (!next_load_.has_value() || filling_.has_value()) return false;
  int64_t values = 0;
  for (const SpAttenSet& set : next_load_->sets) values += set.values;
  // Rows that choose their values share what there is, if it is not enough for all at once.
  values = std::min(values, SramRows(spec_.value_sram_bytes(), head_dim_, spec_));
  if (values > value_room_) return false;
  value_room_ -= values;
  const uint32_t id = load_number_++;
  Load& load = loads_[id];
  load.plan = *std::move(next_load_);
  load.rows.emplace(record_, &load.plan);
  load.sets.resize(load.plan.sets.size());
  for (const SpAttenSet& set : load.plan.sets) load.keys = std::max(load.keys, set.keys);
  load.values_held = load.values_room = values;
  load.begin = now_;
  if (!load.plan.loads_values) {
    SpAttenRows rows(record_, &load.plan);
    while (const auto row = rows.Next()) ++load.choosers[row->ordinal];
  }
  making_.push_back(id);
  filling_ = id;
  next_load_ = source_.Next();
  return true;
}

bool SpAttenPipeline::FillKeys() {
  if (!filling_.has_value()) return false;
  Load& load = loads_.at(*filling_);
  const auto& sets = load.plan.sets;
  const int64_t open = std::count_if(
      sets.begin(), sets.end(), [&](const SpAttenSet& set) { return set.keys > load.keys_asked; });
  const auto until =
      static_cast<int32_t>(std::min<int64_t>(load.keys, load.keys_asked + key_room_ / open));
  if (until == load.keys_asked) return false;
  int64_t keys = 0;
  std::vector<SpAttenLayout::Rows> rows;
  for (const SpAttenSet& set : sets) {
    const int32_t count = std::max(0, std::min(set.keys, until) - load.keys_asked);
    if (count > 0) rows.push_back({set.kv_head, count});
    keys += count;
  }
  key_room_ -= keys;
  const SpAttenLayout& layout = layouts_[load.plan.sequence];
  CountFetch(load.plan.sequence, keys, layout.key_bits());
  ++load.key_fetches;
  Fetch(FetchClass::kKey, kKeysCame, *filling_,
        layout.Keys(rows, load.plan.first_key + load.keys_asked));
  load.keys_asked = until;
  if (until < load.keys) return true;
  if (load.plan.loads_values) {
    rows.clear();
    for (const SpAttenSet& set : sets) rows.push_back({set.kv_head, set.values});
    CountFetch(load.plan.sequence, load.values_held, layout.value_bits());
    Fetch(FetchClass::kKey, kLoadedValuesCame, *filling_,
          layout.Values(rows, load.plan.first_key, 0));
  }
  filling_.reset();
  return true;
}

bool SpAttenPipeline::MakeRows() {
  bool moved = false;
  while (!making_.empty() && static_cast<int32_t>(waiting_.size()) < spec_.row_queue()) {
    const uint32_t load_id = making_.front();
    Load& load = loads_.at(load_id);
    const std::optional<SpAttenRow> plan = load.rows->Next();
    for (int32_t set = 0; set < load.rows->set(); ++set) load.sets[set].all_made = true;
    moved = true;
    if (!plan.has_value()) {
      load.all_made = true;
      making_.pop_front();
      ReleaseKeys(&load);
      ReleaseLoad(load_id);
      RankTokens();
      continue;
    }
    ReleaseKeys(&load);
    ++load.sets[plan->set].undecided;
    ++load.unfinished;
    Row row;
    row.plan = *plan;
    row.load = load_id;
    row.sequence = load.plan.sequence;
    row.number = row_number_++;
    ++undecided_[row.sequence];
    ++all_undecided_;
    const SpAttenLayout& layout = layouts_[row.sequence];
    const bool partial = load.plan.segment > 0;
    SpAttenWork& work = work_[row.sequence];
    ++work.rows;
    work.plain_bits += layout.query_bits() + (partial ? layout.output_bits(true) : 0);
    const int64_t number = row.number;
    const uint32_t id = NewRow(std::move(row));
    waiting_.push_back(id);
    Fetch(FetchClass::kQuery, kQueryCame, id, layout.Query(number, partial));
  }
  return moved;
}

bool SpAttenPipeline::StartQk() {
  if (qk_free_ > now_) return false;
  std::deque<uint32_t>* queue = !again_.empty() ? &again_ : &waiting_;
  if (queue->empty()) return false;
  const uint32_t id = queue->front();
  const Row& row = rows_[id];
  if (!row.query_came || !loads_.at(row.load).keys_came() || row.plan.keys > score_room_)
    return false;
  queue->pop_front();
  score_room_ -= row.plan.keys;
  const int64_t cycles = ArrayCycles(row.plan.keys, head_dim_, spec_);
  qk_free_ = now_ + cycles;
  At(qk_free_, kUnitFree);
  Show(kQk, row, now_, qk_free_);
  // Scores stream into the exponentials as they are made, or wait in the queue before them.
  const int64_t first = now_ + spec_.latency().qk();
  exponent_free_ = std::max(std::max(first, exponent_free_) + StreamCycles(row.plan.keys),
                            qk_free_ + spec_.latency().qk());
  At(exponent_free_ + spec_.latency().exponent() + spec_.latency().accumulate(), kSummed, id);
  SpAttenWork& work = work_[row.sequence];
  const int64_t elements = static_cast<int64_t>(row.plan.keys) * head_dim_;
  work.key_products += elements;
  work.softmax_elements += row.plan.keys;
  work.sram_bits += elements * spec_.element_bits();
  return true;
}

bool SpAttenPipeline::StartDivision() {
  if (division_free_ > now_ || summed_.empty()) return false;
  const uint32_t id = summed_.front();
  const Row& row = rows_[id];
  if (row.plan.keys > probability_room_) return false;
  summed_.pop_front();
  // What streams out of a queue makes room as fast as anything can stream in.
  score_room_ += row.plan.keys;
  probability_room_ -= row.plan.keys;
  division_free_ = now_ + StreamCycles(row.plan.keys);
  At(division_free_, kUnitFree);
  At(division_free_ + spec_.latency().divide() + spec_.latency().decision(), kDecided, id);
  Show(kSoftmax, row, now_, division_free_);
  return true;
}

void SpAttenPipeline::Decide(uint32_t id) {
  Row& row = rows_[id];
  Load& load = loads_.at(row.load);
  if (row.plan.refetch && !row.again) {
    row.again = true;
    probability_room_ += row.plan.keys;
    ++lower_bits_awaited_;
    const SpAttenLayout& layout = layouts_[row.sequence];
    const int64_t bits = row.plan.keys * layout.lower_bits();
    SpAttenWork& work = work_[row.sequence];
    work.kv_bits += bits;
    work.plain_bits += bits;
    work.sram_bits += bits;
    Fetch(FetchClass::kRefetch, kLowerBitsCame, id,
          layout.LowerBits({load.plan.sets[row.plan.set].kv_head, row.plan.keys},
                           load.plan.first_key));
    return;
  }
  --load.sets[row.plan.set].undecided;
  ReleaseKeys(&load);
  if (record_.sequences[row.sequence].accumulates_importance) {
    work_[row.sequence].accumulated += row.plan.keys;
  }
  decided_.push_back(id);
  --undecided_[row.sequence];
  --all_undecided_;
  RankTokens();
}

void SpAttenPipeline::ReleaseKeys(Load* load) {
  if (!load->keys_came()) return;
  for (size_t i = 0; i < load->sets.size(); ++i) {
    Load::Set& set = load->sets[i];
    if (!set.all_made || set.undecided > 0 || set.released) continue;
    set.released = true;
    key_room_ += load->plan.sets[i].keys;
  }
}

void SpAttenPipeline::CountFetch(int32_t sequence, int64_t rows, int64_t row_bits) {
  SpAttenWork& work = work_[sequence];
  work.kv_bits += rows * row_bits;
  work.plain_bits += rows * row_bits;
  work.sram_bits += rows * head_dim_ * spec_.element_bits();
}

}  // namespace thresher
