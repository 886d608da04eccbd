// Mappings that work on whole rows of scores: FLAT, which keeps them on chip as far as there is
// room, and the unfused run, which sends them through memory.
#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "backend/device/simulator/spatial/head_mapper.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

using Loop = TilePipeline::Loop;

// Where tensors lie, and how they are walked.
struct Placement {
  std::set<std::string> on_chip;
  Stationary stationary = Stationary::kOutput;
  int64_t rows = 0;             // Queries at a time.
  double key_loads = 1;         // How often on-chip inputs by keys are read from memory.
  bool sums_in_buffer = false;  // Partial sums of the output leave the array after each key tile.
  /// Of each Einsum: what runs at one time. What passes between groups may go through memory.
  std::vector<int> groups;
};

class RowMapper : public HeadMapper {
 public:
  RowMapper(const SpatialMachine& machine, const AttentionSize& size, Placement placement)
      : HeadMapper(machine, size),
        placement_(std::move(placement)),
        head_(HeadExtents()),
        group_bytes_(1 + *std::max_element(placement_.groups.begin(), placement_.groups.end())) {}

  /// Counts what is moved. `unfused` work has phases, else one pipeline.
  absl::StatusOr<HeadWork> Map(bool unfused) {
    if (!unfused) THRESHER_RETURN_IF_ERROR(ChooseSpill());
    for (size_t i = 0; i < einsums_.size(); ++i) {
      for (const TensorUse& use : einsums_[i].inputs) {
        if (machine_.IsInput(use.tensor)) CountInput(i, use);
      }
      if (i + 1 < einsums_.size()) CountIntermediate(i);
    }
    CountOutput();
    if (unfused) {
      AddPhases();
    } else {
      AddTiles();
    }
    return std::move(work_);
  }

  /// Of the tiles of inputs and the output, each twice, and of the scores.
  double room() const { return room_; }

 private:
  void Memory(size_t einsum, double words) {
    work_.memory_bytes += words * machine_.word_bytes;
    group_bytes_[placement_.groups[einsum]] += words * machine_.word_bytes;
  }
  bool OnChip(const std::string& tensor) const { return placement_.on_chip.count(tensor) > 0; }
  double Moved(size_t einsum, const TensorUse& use) const {
    return MovedWords(machine_, einsum, use, head_, placement_.stationary);
  }
  double Words(const TensorUse& use) const {
    double words = head_.Points(use.ranks);
    if (use.Has("m0")) words *= static_cast<double>(size_.keys) / (head_.m1 * head_.m0);
    return words;
  }
  // Scores, and what is made of them: whole rows of keys for each query.
  static bool IsMatrix(const TensorUse& use) { return use.Has("p") && HasKeys(use); }
  bool Crosses(size_t maker) const {
    for (size_t i = 0; i < einsums_.size(); ++i) {
      if (placement_.groups[i] == placement_.groups[maker]) continue;
      for (const TensorUse& use : einsums_[i].inputs) {
        if (use.tensor == einsums_[maker].output.tensor) return true;
      }
    }
    return false;
  }

  // The share of scores (and what is made of them) that finds no room on chip.
  absl::Status ChooseSpill() {
    const double vector = static_cast<double>(size_.head_dim) * machine_.word_bytes;
    double tiles = 0;
    for (const auto& [name, use] : inputs_) {
      const bool keys = HasKeys(use);
      const int64_t rows = OnChip(name) ? (keys ? size_.keys : placement_.rows)
                                        : (keys ? machine_.columns : machine_.rows);
      tiles += static_cast<double>(rows) * vector;
    }
    tiles += vector * static_cast<double>(OnChip(einsums_.back().output.tensor) ? placement_.rows
                                                                                : machine_.rows);
    bool keeps_scores = false;
    for (size_t i = 0; i + 1 < einsums_.size(); ++i) {
      const TensorUse& made = einsums_[i].output;
      keeps_scores |= IsMatrix(made) && Crosses(i) && OnChip(made.tensor);
    }
    room_ = 2 * tiles;
    if (room_ > machine_.buffer_bytes) return DoesNotFit(room_);
    if (keeps_scores) {
      room_ += static_cast<double>(placement_.rows) * static_cast<double>(size_.keys) *
               machine_.word_bytes;
      spill_ = std::max(0.0, 1 - machine_.buffer_bytes / room_);
    }
    return absl::OkStatus();
  }

  void CountInput(size_t einsum, const TensorUse& use) {
    const bool keys = HasKeys(use);
    double moved = Moved(einsum, use);
    // What stays in the array is put there again for each block of queries.
    if (keys && placement_.stationary == Stationary::kWeight) {
      moved *= std::ceil(static_cast<double>(size_.queries) / static_cast<double>(placement_.rows));
    }
    double from_memory = moved;
    if (OnChip(use.tensor)) {
      const double loaded = Words(use) * (keys ? placement_.key_loads : 1);
      Write(loaded);
      Read(moved);
      from_memory = loaded * (1 - spill_) + moved * spill_;
    }
    Memory(einsum, from_memory);
    if (keys) work_.kv_bytes += from_memory * machine_.word_bytes;
  }

  void CountIntermediate(size_t maker) {
    const TensorUse& made = einsums_[maker].output;
    const double words = Words(made);
    const bool through_memory = IsMatrix(made) && Crosses(maker) && !OnChip(made.tensor);
    double moved = 0;
    if (through_memory) {
      Memory(maker, words);
    } else if (machine_.einsums[maker].to_buffer) {
      Write(Moved(maker, made));
      moved += Moved(maker, made);
    }
    std::set<int> fetched;  // By groups.
    for (size_t i = 0; i < einsums_.size(); ++i) {
      const auto& from = machine_.einsums[i].from_buffer;
      if (std::find(from.begin(), from.end(), made.tensor) == from.end()) continue;
      const TensorUse& use = *std::find_if(einsums_[i].inputs.begin(), einsums_[i].inputs.end(),
                                           [&](const auto& u) { return u.tensor == made.tensor; });
      if (through_memory && placement_.groups[i] != placement_.groups[maker]) {
        // The 2D array takes it from memory as it comes, the 1D array through the buffer.
        const bool buffered = machine_.einsums[i].array == v1::ARRAY_1D;
        if (!buffered) {
          Memory(i, Moved(i, use));
          continue;
        }
        if (fetched.insert(placement_.groups[i]).second) {
          Memory(i, words);
          Write(words);
        }
      }
      Read(Moved(i, use));
      moved += Moved(i, use);
    }
    if (IsMatrix(made) && !through_memory) Memory(maker, moved * spill_);
  }

  void CountOutput() {
    const size_t last = einsums_.size() - 1;
    const TensorUse& output = einsums_[last].output;
    const double words = Words(output);
    const bool sums = placement_.sums_in_buffer || placement_.stationary == Stationary::kWeight;
    const double updates = sums ? Moved(last, output) : words;
    if (OnChip(output.tensor)) {
      Write(updates);
      Read(updates - words);
      Memory(last, words);
    } else {
      Memory(last, updates + (updates - words));
    }
  }

  int64_t Ticks(size_t einsum, int64_t rows) const {
    Extents tile = head_;
    tile.p = rows;
    return CyclesOf(machine_, einsum, tile, placement_.stationary) * SpatialMachine::kTicksPerCycle;
  }

  // `ticks_of(rows)` of each tile of queries, the last of which may be smaller.
  template <typename TicksOf>
  Loop Rows(const std::vector<TilePipeline::Step>& steps, const TicksOf& ticks_of) {
    Loop head;
    const int64_t whole = size_.queries / machine_.rows;
    const int64_t cut = size_.queries % machine_.rows;
    if (whole > 0) head.body.push_back({.count = whole, .ticks = ticks_of(machine_.rows)});
    if (cut > 0) head.body.push_back({.count = 1, .ticks = ticks_of(cut)});
    for (const Loop& tile : head.body) AddTime(steps, tile.ticks, static_cast<double>(tile.count));
    return head;
  }

  // Memory is asked evenly: what a block of queries needs comes while the one before is computed.
  double Share(int64_t rows) const {
    return static_cast<double>(rows) / static_cast<double>(size_.queries);
  }

  void AddTiles() {
    work_.tiles.push_back(Rows(machine_.program.steps, [&](int64_t rows) {
      std::vector<int64_t> ticks(machine_.program.steps.size());
      ticks[0] = machine_.MemoryTicks(work_.memory_bytes * Share(rows));
      for (size_t i = 0; i < einsums_.size(); ++i) ticks[machine_.steps[i]] = Ticks(i, rows);
      return ticks;
    }));
    // Two blocks have their inputs and outputs on chip.
    work_.window =
        static_cast<int>(std::min(kMostAhead, 2 * CeilDiv(placement_.rows, machine_.rows)));
  }

  void AddPhases() {
    for (const auto& [first, last] : PhasesOf(machine_)) {
      const double bytes = group_bytes_[placement_.groups[first]];
      const TilePipeline::Program phase = machine_.Phase(first, last);
      work_.tiles.push_back(Rows(phase.steps, [&, first = first, last = last](int64_t rows) {
        std::vector<int64_t> ticks = {machine_.MemoryTicks(bytes * Share(rows))};
        for (size_t i = first; i < last; ++i) ticks.push_back(Ticks(i, rows));
        return ticks;
      }));
    }
  }

  const Placement placement_;
  const Extents head_;
  std::vector<double> group_bytes_;
  double spill_ = 0;
  double room_ = 0;
};

std::vector<int> GroupsByArray(const SpatialMachine& machine) {
  std::vector<int> groups;
  for (const BoundEinsum& einsum : machine.einsums) groups.push_back(einsum.array == v1::ARRAY_1D);
  return groups;
}

std::vector<int> GroupsByPhase(const SpatialMachine& machine) {
  std::vector<int> groups(machine.einsums.size());
  int phase = 0;
  for (const auto& [first, last] : PhasesOf(machine)) {
    std::fill(groups.begin() + first, groups.begin() + last, phase++);
  }
  return groups;
}

// Every placement that FLAT could choose for a head; the best of them.
absl::StatusOr<HeadWork> SearchFused(const SpatialMachine& machine, const AttentionSize& size) {
  std::vector<std::string> placeable;  // Inputs and the output.
  std::set<std::string> scores;
  for (size_t i = 0; i < machine.cascade.einsums().size(); ++i) {
    const Einsum& einsum = machine.cascade.einsums()[i];
    for (const TensorUse& use : einsum.inputs) {
      if (!machine.IsInput(use.tensor)) continue;
      if (std::find(placeable.begin(), placeable.end(), use.tensor) == placeable.end()) {
        placeable.push_back(use.tensor);
      }
    }
    scores.insert(einsum.output.tensor);
  }
  placeable.push_back(machine.cascade.einsums().back().output.tensor);
  scores.erase(placeable.back());
  std::optional<HeadWork> best;
  std::tuple<double, double, double> best_cost;
  absl::Status why;
  Placement placement{.groups = GroupsByArray(machine)};
  for (const Stationary stationary : {Stationary::kOutput, Stationary::kWeight}) {
    placement.stationary = stationary;
    for (int64_t rows = machine.rows;; rows *= 2) {
      placement.rows = std::min(rows, size.queries);
      for (uint32_t choice = 0; choice < uint32_t{2} << placeable.size(); ++choice) {
        placement.on_chip.clear();
        for (size_t i = 0; i < placeable.size(); ++i) {
          if (choice >> i & 1) placement.on_chip.insert(placeable[i]);
        }
        if (choice >> placeable.size() & 1) {
          placement.on_chip.insert(scores.begin(), scores.end());
        }
        RowMapper mapper(machine, size, placement);
        auto work = mapper.Map(/*unfused=*/false);
        if (!work.ok()) {
          why = work.status();
          continue;
        }
        const std::tuple cost(*std::max_element(work->cycles.begin(), work->cycles.end()),
                              work->memory_bytes, mapper.room());
        if (!best || cost < best_cost) {
          best = *std::move(work);
          best_cost = cost;
        }
      }
      if (rows >= size.queries) break;
    }
  }
  if (!best) return why;
  return *std::move(best);
}

}  // namespace

absl::StatusOr<HeadWork> MapFused(const SpatialMachine& machine, const AttentionSize& size) {
  for (const v1::FusedMapping::Choice& choice : machine.spec.fused().choices()) {
    if ((choice.up_to_tokens() > 0 && size.keys > choice.up_to_tokens()) ||
        (choice.up_to_head_dim() > 0 && size.head_dim > choice.up_to_head_dim())) {
      continue;
    }
    Placement placement{
        .on_chip = {choice.on_chip().begin(), choice.on_chip().end()},
        .rows = choice.rows() > 0 ? std::min(choice.rows(), size.queries) : size.queries,
        .groups = GroupsByArray(machine)};
    if (choice.stationary() == v1::FusedMapping::WEIGHT) {
      placement.stationary = Stationary::kWeight;
    }
    return RowMapper(machine, size, std::move(placement)).Map(/*unfused=*/false);
  }
  return SearchFused(machine, size);
}

absl::StatusOr<HeadWork> MapUnfused(const SpatialMachine& machine, const AttentionSize& size) {
  Placement placement{
      .rows = size.queries, .sums_in_buffer = true, .groups = GroupsByPhase(machine)};
  for (const Einsum& einsum : machine.cascade.einsums()) {
    for (const TensorUse& use : einsum.inputs) {
      if (machine.IsInput(use.tensor)) placement.on_chip.insert(use.tensor);
    }
  }
  placement.on_chip.insert(machine.cascade.einsums().back().output.tensor);
  // Queries and keys of a head stay on chip if both fit; otherwise a part of the queries does, as
  // large as fits beside one tile of keys, and the keys are read again for each part.
  const double vector = static_cast<double>(size.head_dim) * machine.word_bytes;
  const double queries = static_cast<double>(size.queries) * vector;
  const double tile = static_cast<double>(machine.columns) * vector;
  if (queries + static_cast<double>(size.keys) * vector > machine.buffer_bytes) {
    double parts = 2;
    while (queries / parts + tile > machine.buffer_bytes) {
      parts *= 2;
      if (queries / parts < vector) {
        return InvalidArgument(
            "preset '{}': spatial.buffer.bytes: {:.0f} do not hold {} keys of "
            "head dimension {}",
            machine.name, machine.buffer_bytes, machine.columns, size.head_dim);
      }
    }
    placement.key_loads = parts;
  }
  return RowMapper(machine, size, std::move(placement)).Map(/*unfused=*/true);
}

}  // namespace thresher
