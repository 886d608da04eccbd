#include "backend/device/simulator/fact/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr uint64_t kWeights = uint64_t{1} << 40;
constexpr uint64_t kInputs = uint64_t{2} << 40;
constexpr uint64_t kKeysAndValues = uint64_t{3} << 40;
constexpr uint64_t kOutputs = uint64_t{4} << 40;
constexpr uint64_t kOutputCookie = ~uint64_t{0};

constexpr std::string_view kWorks;
constexpr std::string_view kWaitsForWeights = "waits for weights";
constexpr std::string_view kWaitsForPrediction = "waits for prediction";
constexpr std::string_view kWaitsForSoftmax = "waits for softmax";
constexpr std::string_view kWaitsForMemory = "waits for memory";
constexpr std::string_view kWaitsForArray = "waits for the array";
constexpr std::string_view kHasDone = "has nothing to predict";

int64_t Up(int64_t a, int64_t b) { return FactGeometry::Up(a, b); }

}  // namespace

FactPipeline::FactPipeline(const v1::FactSpec& spec, const LayerRecord& record, bool generates,
                           FetchNetwork* network, UnitClock* array, Timeline* timeline)
    : spec_(spec),
      geometry_(spec),
      record_(record),
      shape_(record.shape),
      generates_(generates),
      bits_(spec.element_bits()),
      network_(network),
      timeline_(timeline),
      work_(record.sequences.size()),
      array_(array) {
  MakeItems();
  for (size_t s = 0; s < record.sequences.size(); ++s) {
    rows_.push_back(std::make_unique<FactRows>(record, static_cast<int32_t>(s),
                                               geometry_.KvPlaces(shape_.head_dim)));
  }
}

/// Head by head, so that the sequences of a batch share its weights.
void FactPipeline::MakeItems() {
  const int32_t group = shape_.heads / shape_.kv_heads;
  std::vector<size_t> next(record_.sequences.size(), 0);
  std::vector<int32_t> last_kv(record_.sequences.size(), -1);
  for (int32_t head = 0; head < shape_.heads; ++head) {
    Load load;
    for (size_t s = 0; s < record_.sequences.size(); ++s) {
      const SequenceRecord& sequence = record_.sequences[s];
      if (next[s] == sequence.heads.size() || sequence.heads[next[s]].head != head) continue;
      const HeadRecord& record = sequence.heads[next[s]++];
      if (sequence.rows == 0) continue;
      items_.push_back({.load = static_cast<int32_t>(loads_.size()),
                        .sequence = static_cast<int32_t>(s),
                        .head = &record,
                        .first_of_kv = last_kv[s] != head / group,
                        .left = sequence.rows});
      last_kv[s] = head / group;
      ++load.items_left;
    }
    if (load.items_left > 0) loads_.push_back(load);
  }
}

FetchPart FactPipeline::Bytes(uint64_t address, int64_t bytes, bool write) const {
  const auto burst = static_cast<uint64_t>(network_->burst_bytes());
  FetchPart part;
  part.base = address / burst * burst;
  part.stride = burst;
  part.count = Up(bytes, static_cast<int64_t>(burst));
  part.bursts = 1;
  part.write = write;
  return part;
}

// ---- Memory ----

/// Asks for the next head's weights, and what comes with them, when half of the buffer is free.
void FactPipeline::Fetch(int64_t now) {
  if (loads_asked_ == static_cast<int32_t>(loads_.size()) || loads_asked_ - loads_done_ >= 2) {
    return;
  }
  const int64_t dim = shape_.head_dim, hidden = shape_.hidden_size;
  FetchJob job;
  job.cookie = static_cast<uint64_t>(loads_asked_);
  const auto ask = [&](uint64_t region, uint64_t offset, int64_t bits, int32_t sequence) {
    if (bits == 0) return;
    job.parts.push_back(Bytes(region + offset, Up(bits, 8), false));
    work_[sequence].plain_bits += bits;
  };
  // Inputs that the buffer has no room for come for each head, and again for the generation where
  // the prediction has seen them before.
  const int64_t rows_kept = spec_.activation_sram_bytes() * 8 / (hidden * bits_);
  int64_t kept = 0;
  int64_t weights = 0;
  for (const Item& item : items_) {
    if (item.load != loads_asked_) continue;
    const int32_t s = item.sequence;
    const SequenceRecord& sequence = record_.sequences[s];
    const uint64_t at = (static_cast<uint64_t>(s) * shape_.heads + item.head->head)
                        << 20;  // Far apart, whatever their size.
    const bool predicts = sequence.predicted_rows > 0;
    if (generates_ || predicts) {
      // Asked for once, for all sequences.
      const int64_t matrices = generates_ ? (item.first_of_kv ? 3 : 1) : 2;
      const int64_t bits = matrices * hidden * dim * bits_;
      work_[s].plain_bits += bits / loads_[loads_asked_].items_left;
      if (bits > weights) {
        const auto head = static_cast<uint64_t>(record_.layer) * shape_.heads + item.head->head;
        job.parts.push_back(
            Bytes(kWeights + head * 3 * hidden * dim * bits_ / 8, Up(bits - weights, 8), false));
        weights = bits;
      }
      const int64_t room = std::min<int64_t>(sequence.rows, std::max<int64_t>(rows_kept - kept, 0));
      kept += room;
      const int64_t times = predicts && generates_ ? 2 : 1;
      int64_t rows = (sequence.rows - room) * times;
      if (loads_asked_ == 0) rows += room;
      ask(kInputs, static_cast<uint64_t>(s) << 32, rows * hidden * bits_, s);
    }
    if (item.first_of_kv) {
      const int64_t cached = 2 * int64_t{sequence.keys - sequence.rows} * dim * bits_;
      ask(kKeysAndValues, at, cached, s);
      work_[s].kv_bits += cached;
    }
    if (!generates_) {
      const int64_t heads = static_cast<int64_t>(sequence.heads.size());
      const int64_t kv_heads = std::max<int64_t>(1, heads * shape_.kv_heads / shape_.heads);
      ask(kKeysAndValues, at + (1 << 18), Up(sequence.query_rows, heads) * dim * bits_, s);
      if (item.first_of_kv) {
        const int64_t rows = Up(sequence.key_rows + sequence.value_rows, kv_heads);
        ask(kKeysAndValues, at + (1 << 19), rows * dim * bits_, s);
        work_[s].kv_bits += rows * dim * bits_;
      }
    }
  }
  if (job.parts.empty()) {
    loads_[loads_asked_].came = now;
  } else {
    network_->Submit(FetchClass::kKey, std::move(job));
  }
  ++loads_asked_;
}

// ---- Prediction ----

/// Additions and comparisons of a query, and the cycles that the slower of both takes.
int64_t FactPipeline::PredictedRowCycles(const Item& item, const FactRow& row) {
  if (record_.sequences[item.sequence].predicted_rows == 0) return 0;
  FactWork& work = work_[item.sequence];
  const int64_t dim = shape_.head_dim, hidden = shape_.hidden_size;
  const int64_t adds = (hidden + row.sight) * dim;
  work.predict_adds += adds;
  work.comparisons += row.sight;
  work.sram_bits += (hidden + row.sight * dim) * bits_ + hidden * dim * bits_ / spec_.array_rows();
  return std::max(Up(adds, spec_.prediction().adders()),
                  Up(row.sight, spec_.prediction().top_k_lanes()));
}

/// One step: something ends, or something begins. False: nothing does.
bool FactPipeline::Predict(int64_t now) {
  if (predicting_ == static_cast<int32_t>(items_.size())) return false;
  Item& item = items_[predicting_];
  const SequenceRecord& sequence = record_.sequences[item.sequence];
  if (predict_busy_) {
    if (predicted_at_ > now) return false;
    if (predicting_row_ >= 0) {
      if (QueueFull()) return false;
      predicted_.push_back(std::exchange(next_row_, {}));
    }
    predict_busy_ = false;
    if (++predicting_row_ == sequence.rows) {
      ++predicting_;
      predicting_row_ = -1;
    }
    return true;
  }
  if (loads_[item.load].came > now) return false;
  if (!spec_.out_of_order() && items_done_ < predicting_) return false;
  predict_busy_ = true;
  predicted_at_ = now;
  if (predicting_row_ < 0) {
    item.begin = now;
    rows_[item.sequence]->StartHead(*item.head);
    if (sequence.predicted_rows > 0 && item.first_of_kv) {
      const int64_t adds = int64_t{sequence.rows} * shape_.hidden_size * shape_.head_dim;
      work_[item.sequence].predict_adds += adds;
      work_[item.sequence].sram_bits +=
          (int64_t{sequence.rows} * shape_.hidden_size + adds / spec_.array_rows()) * bits_;
      predicted_at_ += Up(adds, spec_.prediction().adders());
    }
    if (sequence.predicted_rows > 0) predicted_at_ += spec_.prediction().latency();
    return true;
  }
  next_row_ = {.item = predicting_, .token = static_cast<int32_t>(predicting_row_)};
  next_row_.row = rows_[item.sequence]->Next(&next_row_.keys, &next_row_.values);
  predicted_at_ += PredictedRowCycles(item, next_row_.row);
  return true;
}

/// In order, what is predicted of a whole head is kept.
bool FactPipeline::QueueFull() const {
  return spec_.out_of_order() &&
         static_cast<int32_t>(predicted_.size()) >= spec_.prediction().row_queue();
}

/// The array takes up a query: what it names is to be generated.
bool FactPipeline::TakeUp() {
  if (predicted_.empty()) return false;
  // In order: not before the whole head is predicted.
  if (!spec_.out_of_order() && predicting_ == predicted_.front().item) return false;
  for (const std::deque<Named>& named : named_) {
    if (static_cast<int32_t>(named.size()) >= spec_.generation_window()) return false;
  }
  Row row = std::move(predicted_.front());
  predicted_.pop_front();
  // K and V of two heads fit: the next one's must wait until the one before the last has done.
  if (row.item > items_done_ + 1) {
    predicted_.push_front(std::move(row));
    return false;
  }
  if (generates_) {
    if (!row.row.one_hot) named_[kQuery].push_back({taken_up_, row.token});
    for (const int32_t token : row.keys) named_[kKey].push_back({taken_up_, token});
    for (const int32_t token : row.values) named_[kValue].push_back({taken_up_, token});
    row.missing =
        static_cast<int64_t>(row.keys.size() + row.values.size()) + (row.row.one_hot ? 0 : 1);
  }
  waiting_.push_back(std::move(row));
  ++taken_up_;
  return true;
}

// ---- The array ----

void FactPipeline::RunArray(int64_t now, int64_t cycles, int64_t conflicts) {
  array_done_ = now + std::max<int64_t>(cycles, 1);
  conflict_cycles_ += conflicts;
}

bool FactPipeline::FinishArray(int64_t now) {
  if (array_done_ > now) return false;
  array_done_ = kNever;
  switch (std::exchange(task_, Task::kNone)) {
    case Task::kGeneration: {
      const int64_t first = taken_up_ - static_cast<int64_t>(waiting_.size());
      for (const int64_t row : generating_) --waiting_[static_cast<size_t>(row - first)].missing;
      generating_.clear();
      break;
    }
    case Task::kScores: {
      const int64_t cycles = Up(attending_.row.keys, spec_.softmax().lanes());
      softmax_free_ = std::max(softmax_free_, now) + cycles;
      softmax_busy_ += cycles;
      attending_.ready = softmax_free_ + spec_.softmax().latency();
      scored_.push_back(std::move(attending_));
      break;
    }
    case Task::kValues:
      OutputDone(attending_.item, now);
      break;
    case Task::kNone:
      break;
  }
  return true;
}

void FactPipeline::OutputDone(int32_t i, int64_t now) {
  Item& item = items_[i];
  if (--item.left > 0) return;
  ++items_done_;
  if (--loads_[item.load].items_left == 0) ++loads_done_;
  const SequenceRecord& sequence = record_.sequences[item.sequence];
  const int64_t bits = int64_t{sequence.rows} * shape_.head_dim * bits_;
  FetchJob job;
  job.cookie = kOutputCookie;
  job.parts.push_back(
      Bytes(kOutputs + (static_cast<uint64_t>(item.sequence) << 32) + item.head->head * bits / 8,
            Up(bits, 8), true));
  work_[item.sequence].plain_bits += bits;
  network_->Submit(FetchClass::kOutput, std::move(job));
  ++outputs_left_;
  if (timeline_ != nullptr) {
    const double cycle_ps = 1e12 / spec_.clock_hz();
    timeline_->Add(
        "attention",
        fmt::format("layer {} head {} sequence {}", record_.layer, item.head->head, item.sequence),
        std::llround(static_cast<double>(item.begin) * cycle_ps),
        std::llround(static_cast<double>(now) * cycle_ps));
  }
}

/// What is nearest to the end goes first.
bool FactPipeline::StartArray(int64_t now) {
  if (task_ != Task::kNone) return false;
  if (!scored_.empty() && scored_.front().ready <= now) {
    task_ = Task::kValues;
    Row row = std::move(scored_.front());
    scored_.pop_front();
    StartAttention(std::move(row), now);
    return true;
  }
  const bool room = static_cast<int32_t>(scored_.size()) < spec_.softmax().queue();
  if (!waiting_.empty() && waiting_.front().missing == 0 && room) {
    Row row = std::move(waiting_.front());
    waiting_.pop_front();
    if (row.row.one_hot || row.row.keys == 0) {
      row.ready = now;
      scored_.push_back(std::move(row));
      return true;
    }
    task_ = Task::kScores;
    StartAttention(std::move(row), now);
    return true;
  }
  return StartGeneration(now);
}

/// The product of one query with its keys, or of its probabilities with their values: the same
/// work.
void FactPipeline::StartAttention(Row row, int64_t now) {
  const int64_t dim = shape_.head_dim, keys = row.row.keys;
  FactWork& work = work_[items_[row.item].sequence];
  const int64_t beats = Up(keys, geometry_.KvRowsAtOnce(dim));
  const int64_t cycles = geometry_.KvBeatCycles(dim);
  RunArray(now, std::max(beats, row.row.most) * cycles,
           std::max<int64_t>(row.row.most - beats, 0) * cycles);
  work.sram_bits += (keys + 1) * dim * bits_;
  if (!row.row.one_hot) work.attention_products += keys * dim;  // A V row alone is copied.
  if (task_ == Task::kScores) {
    ++work.softmax_rows;
    work.softmax_elements += keys;
  }
  attending_ = std::move(row);
}

/// Of the rows that wait, those that go together: at most one from each bank, and no more than the
/// array has rows.
std::vector<size_t> FactPipeline::PickGroup(const std::deque<Named>& named) const {
  std::vector<size_t> picked;
  uint64_t banks = 0;
  const size_t window = std::min<size_t>(named.size(), spec_.generation_window());
  for (size_t i = 0; i < window; ++i) {
    if (static_cast<int32_t>(picked.size()) == spec_.array_rows()) break;
    if (spec_.diagonal_storage()) {
      const uint64_t bank = uint64_t{1} << (named[i].token % spec_.activation_banks());
      if ((banks & bank) != 0) continue;
      banks |= bank;
    }
    picked.push_back(i);
  }
  return picked;
}

bool FactPipeline::StartGeneration(int64_t now) {
  std::deque<Named>* next = nullptr;
  int operand = 0;
  for (int o : {kKey, kValue, kQuery}) {
    if (named_[o].empty() || (next != nullptr && next->front().row <= named_[o].front().row)) {
      continue;
    }
    next = &named_[o];
    operand = o;
  }
  if (next == nullptr) return false;
  const int64_t first = taken_up_ - static_cast<int64_t>(waiting_.size());
  const int32_t sequence = items_[waiting_[next->front().row - first].item].sequence;
  // Rows of another head, or sequence, need other weights or come from elsewhere.
  const int32_t item = waiting_[next->front().row - first].item;
  const std::vector<size_t> picked = PickGroup(*next);
  int64_t rows = 0;
  for (auto i = picked.rbegin(); i != picked.rend(); ++i) {
    const Named& named = (*next)[*i];
    if (waiting_[named.row - first].item != item) continue;
    generating_.push_back(named.row);
    next->erase(next->begin() + static_cast<ptrdiff_t>(*i));
    ++rows;
  }
  const int64_t dim = shape_.head_dim, hidden = shape_.hidden_size;
  const int64_t cycles = geometry_.GroupCycles(hidden, dim);
  // Without diagonal storage the rows' elements come one after the other.
  const int64_t turns = spec_.diagonal_storage() ? 1 : rows;
  task_ = Task::kGeneration;
  RunArray(now, cycles * turns, cycles * (turns - 1));
  FactWork& work = work_[sequence];
  work.generated[operand] += rows;
  work.generation_products += rows * hidden * dim;
  work.sram_bits += (rows * hidden + hidden * dim + rows * dim) * bits_;
  if (operand != kQuery) work.kv_bits += rows * dim * bits_;
  return true;
}

// ---- Time ----

void FactPipeline::NoteStalls(int64_t now) {
  if (task_ != Task::kNone) {
    array_->Set(now, kWorks);
  } else if (items_done_ == static_cast<int32_t>(items_.size())) {
    array_->Set(now, kWaitsForMemory);
  } else if (!scored_.empty()) {
    array_->Set(now, kWaitsForSoftmax);
  } else if (loads_[items_[items_done_].load].came > now) {
    array_->Set(now, kWaitsForWeights);
  } else {
    array_->Set(now, kWaitsForPrediction);
  }
  if (predicting_ == static_cast<int32_t>(items_.size())) {
    prediction_.Set(now, kHasDone);
  } else if (predict_busy_ && predicted_at_ > now) {
    prediction_.Set(now, kWorks);
  } else if (predict_busy_ || !spec_.out_of_order()) {
    prediction_.Set(now, kWaitsForArray);
  } else {
    prediction_.Set(now, kWaitsForWeights);
  }
}

absl::StatusOr<int64_t> FactPipeline::Run(int64_t begin) {
  int64_t now = begin, last = begin;
  prediction_.Start(now);
  array_->Start(now);
  std::vector<FetchNetwork::Completion> completions;
  const auto all_items = static_cast<int32_t>(items_.size());
  while (items_done_ < all_items || outputs_left_ > 0) {
    Fetch(now);
    for (bool moved = true; moved;) {
      moved = FinishArray(now);
      while (Predict(now) || TakeUp()) moved = true;
      moved |= StartArray(now);
    }
    Fetch(now);
    NoteStalls(now);

    const int64_t tick = network_->NextTick(now);
    int64_t next = std::min(tick, array_done_);
    if (predict_busy_ && predicted_at_ > now) next = std::min(next, predicted_at_);
    if (!scored_.empty() && scored_.front().ready > now) {
      next = std::min(next, scored_.front().ready);
    }
    for (int32_t l = loads_done_; l < loads_asked_; ++l) {
      if (loads_[l].came > now) next = std::min(next, loads_[l].came);
    }
    if (next == kNever && (items_done_ < all_items || outputs_left_ > 0)) {
      return Internal("fact: layer {}: nothing moves, and {} heads are left", record_.layer,
                      all_items - items_done_);
    }
    if (next == kNever) break;
    now = next;
    completions.clear();
    if (now == tick) network_->Tick(now, &completions);
    for (const auto& completion : completions) {
      if (completion.cookie == kOutputCookie) {
        --outputs_left_;
        last = std::max(last, completion.cycle);
      } else {
        loads_[completion.cookie].came = completion.cycle;
      }
    }
  }
  now = std::max(now, last);
  prediction_.Stop(now);
  array_->Stop(now);
  return now;
}

}  // namespace thresher
