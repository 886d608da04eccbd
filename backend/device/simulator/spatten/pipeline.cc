#include "backend/device/simulator/spatten/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backend/device/simulator/spatten/geometry.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr std::string_view kWorks;
constexpr std::string_view kLayerEnds = "layer ends";
constexpr std::string_view kWaitsForKeys = "waits for K";
constexpr std::string_view kWaitsForQuery = "waits for Q";
constexpr std::string_view kWaitsForLowerBits = "waits for K's lower bits";
constexpr std::string_view kKeySramFull = "K SRAM is full";
constexpr std::string_view kValueSramFull = "V SRAM is full";
constexpr std::string_view kWaitsForSoftmax = "waits for softmax";
constexpr std::string_view kWaitsForScores = "waits for scores";
constexpr std::string_view kWaitsForTopK = "waits for top_k";
constexpr std::string_view kWaitsForProbabilities = "waits for probabilities";
constexpr std::string_view kWaitsForPv = "waits for pv";
constexpr std::string_view kWaitsForValues = "waits for V";
constexpr std::string_view kWaitsForMemory = "waits for memory";

std::vector<int32_t> FusedHeads(const std::vector<SpAttenLayout>& layouts) {
  std::vector<int32_t> fused;
  for (const SpAttenLayout& layout : layouts) fused.push_back(layout.fused_heads());
  return fused;
}

std::vector<SpAttenLayout> Layouts(const LayerRecord& record, const v1::SpAttenSpec& spec,
                                   int32_t burst_bytes) {
  std::vector<SpAttenLayout> layouts;
  for (size_t i = 0; i < record.sequences.size(); ++i) {
    layouts.emplace_back(record, static_cast<int32_t>(i), spec, burst_bytes);
  }
  return layouts;
}

}  // namespace

SpAttenPipeline::SpAttenPipeline(const v1::SpAttenSpec& spec, const LayerRecord& record,
                                 FetchNetwork* network, TopKEngine* top_k, Timeline* timeline)
    : spec_(spec),
      record_(record),
      head_dim_(record.shape.head_dim),
      network_(network),
      top_k_(top_k),
      timeline_(timeline),
      cycle_ps_(1e12 / spec.clock_hz()),
      layouts_(Layouts(record, spec, network->burst_bytes())),
      work_(record.sequences.size()),
      source_(&record, FusedHeads(layouts_), SegmentKeys(record.shape.head_dim, spec)),
      undecided_(record.sequences.size()),
      key_room_(SramRows(spec.key_sram_bytes(), head_dim_, spec)),
      value_room_(SramRows(spec.value_sram_bytes(), head_dim_, spec)),
      score_room_(spec.softmax_fifo()),
      probability_room_(spec.softmax_fifo()),
      chosen_room_(spec.softmax_fifo()) {
  for (const char* name : {"qk", "softmax", "top_k", "pv"}) units_.emplace_back(name);
}

absl::StatusOr<int64_t> SpAttenPipeline::Run(int64_t begin) {
  now_ = qk_free_ = exponent_free_ = division_free_ = pv_free_ = begin;
  for (UnitClock& unit : units_) unit.Start(begin);
  next_load_ = source_.Next();
  RankTokens();
  RankHeads();
  std::vector<FetchNetwork::Completion> completions;
  while (true) {
    Pump();
    SetStates();
    if (Done()) break;
    // Until something has happened that a unit could wait for, only the network moves.
    do {
      const int64_t tick = network_->NextTick(now_);
      now_ = events_.empty() ? tick : std::min(tick, events_.top().cycle);
      if (now_ == FetchNetwork::kNever) {
        return Internal("spatten: layer {}: nothing moves, and rows are left", record_.layer);
      }
      completions.clear();
      if (now_ == tick) network_->Tick(now_, &completions);
      for (const auto& completion : completions) {
        At(std::max(now_, completion.cycle), static_cast<What>(completion.cookie >> 32),
           static_cast<uint32_t>(completion.cookie));
      }
    } while (events_.empty() || events_.top().cycle > now_);
    while (!events_.empty() && events_.top().cycle == now_) {
      const Event event = events_.top();
      events_.pop();
      Handle(event);
    }
  }
  for (UnitClock& unit : units_) unit.Stop(now_);
  return now_;
}

void SpAttenPipeline::Pump() {
  bool moved = true;
  while (moved) {
    // From the end, so that room is made before it is wanted.
    moved = StartPv();
    moved |= FetchChosen();
    moved |= StartStream();
    moved |= StartSelection();
    moved |= EnterTopK();
    moved |= StartDivision();
    moved |= StartQk();
    moved |= MakeRows();
    moved |= FillKeys();
    moved |= BeginLoad();
  }
}

void SpAttenPipeline::Handle(const Event& event) {
  const uint32_t id = event.id;
  switch (event.what) {
    case kKeysCame: {
      Load& load = loads_.at(id);
      --load.key_fetches;
      if (timeline_ != nullptr && load.keys_came()) {
        timeline_->Add(
            "fetch", fmt::format("layer {} K/V head {}", record_.layer, load.plan.sets[0].kv_head),
            std::llround(load.begin * cycle_ps_), std::llround(now_ * cycle_ps_));
      }
      ReleaseKeys(&load);
      ReleaseLoad(id);
      break;
    }
    case kLoadedValuesCame:
      loads_.at(id).values_came = true;
      ReleaseLoad(id);
      break;
    case kQueryCame:
      rows_[id].query_came = true;
      break;
    case kLowerBitsCame:
      --lower_bits_awaited_;
      again_.push_back(id);
      break;
    case kValuesCame:
      for (const uint32_t row : rows_[id].together) rows_[row].values_came = true;
      break;
    case kOutputTaken:
      --outputs_;
      break;
    case kUnitFree:
      break;
    case kSummed:
      summed_.push_back(id);
      break;
    case kDecided:
      Decide(id);
      break;
    case kInTopK:
      entering_.reset();
      in_top_k_ = id;
      break;
    case kSelected:
      selected_ = id;
      break;
    case kStreamed:
      streaming_.reset();
      if (rows_[id].ranking) {
        --rankings_;
        free_rows_.push_back(id);
      } else {
        rows_[id].probabilities_came = true;
      }
      break;
    case kPassed:
      rows_[id].probabilities_came = true;
      break;
    case kMultiplied:
      if (loads_.at(rows_[id].load).plan.loads_values) chosen_room_ += rows_[id].plan.values;
      break;
    case kFinished:
      Finish(id);
      break;
  }
}

void SpAttenPipeline::At(int64_t cycle, What what, uint32_t id) {
  events_.push({cycle, order_++, what, id});
}

void SpAttenPipeline::Fetch(FetchClass fetch_class, What what, uint32_t id,
                            std::vector<FetchPart> parts) {
  network_->Submit(fetch_class, {std::move(parts), static_cast<uint64_t>(what) << 32 | id});
}

uint32_t SpAttenPipeline::NewRow(Row row) {
  if (free_rows_.empty()) {
    free_rows_.push_back(static_cast<uint32_t>(rows_.size()));
    rows_.emplace_back();
  }
  const uint32_t id = free_rows_.back();
  free_rows_.pop_back();
  rows_[id] = std::move(row);
  return id;
}

int64_t SpAttenPipeline::StreamCycles(int64_t elements) const {
  return DivideUp(elements, spec_.softmax_lanes());
}

bool SpAttenPipeline::Done() const {
  return !next_load_.has_value() && loads_.empty() && rankings_ == 0 && outputs_ == 0;
}

void SpAttenPipeline::SetStates() {
  units_[kQk].Set(now_, qk_free_ > now_ ? kWorks : QkCause());
  const bool scores_to_come = next_load_.has_value() || !making_.empty() || !waiting_.empty() ||
                              !again_.empty() || lower_bits_awaited_ > 0 || all_undecided_ > 0;
  units_[kSoftmax].Set(now_, division_free_ > now_ ? kWorks
                             : !summed_.empty()    ? kWaitsForTopK
                             : scores_to_come      ? kWaitsForScores
                                                   : kLayerEnds);
  units_[kTopK].Set(now_, streaming_ || (selecting_ && !selected_) ? kWorks
                          : selected_                              ? kWaitsForPv
                          : scores_to_come || !decided_.empty() || entering_
                              ? kWaitsForProbabilities
                              : kLayerEnds);
  units_[kPv].Set(now_, pv_free_ > now_ ? kWorks : PvCause());
}

std::string_view SpAttenPipeline::QkCause() const {
  if (!again_.empty()) return kWaitsForSoftmax;
  if (!waiting_.empty()) {
    const Row& row = rows_[waiting_.front()];
    const Load& load = loads_.at(row.load);
    if (load.keys_asked < load.keys) return kKeySramFull;
    if (!load.keys_came()) return kWaitsForKeys;
    return row.query_came ? kWaitsForSoftmax : kWaitsForQuery;
  }
  if (next_load_.has_value()) return kValueSramFull;
  return lower_bits_awaited_ > 0 ? kWaitsForLowerBits : kLayerEnds;
}

std::string_view SpAttenPipeline::PvCause() const {
  if (multiplying_.empty()) return loads_.empty() ? kLayerEnds : kWaitsForProbabilities;
  if (outputs_ >= spec_.row_queue()) return kWaitsForMemory;
  const Row& row = rows_[multiplying_.front()];
  if (!row.probabilities_came) return kWaitsForProbabilities;
  const Load& load = loads_.at(row.load);
  const bool values_came = load.plan.loads_values ? load.values_came : row.values_came;
  return values_came ? kWorks : kWaitsForValues;
}

void SpAttenPipeline::Show(Unit unit, const Row& row, int64_t begin, int64_t end) {
  if (timeline_ == nullptr) return;
  const auto what = [&] {
    if (row.ranking) return fmt::format("layer {} ranking of {}", record_.layer, row.ranking);
    const SequenceRecord& sequence = record_.sequences[row.sequence];
    return fmt::format("layer {} head {}", record_.layer, sequence.heads[row.plan.head].head);
  };
  timeline_->Add(units_[unit].name(), what(), std::llround(begin * cycle_ps_),
                 std::llround(end * cycle_ps_));
}

}  // namespace thresher
