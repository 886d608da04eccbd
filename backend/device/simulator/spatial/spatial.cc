#include "backend/device/simulator/spatial/spatial.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "backend/device/simulator/spatial/extents.h"
#include "backend/device/simulator/spatial/linear_layers.h"
#include "backend/device/simulator/spatial/mapping.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr std::string_view kPolicies[] = {"dense"};
constexpr std::string_view kUnits[] = {"memory", "array_2d", "array_1d"};

constexpr int64_t kMostTokens = int64_t{1} << 26;
constexpr int32_t kLargestHead = 65536;
constexpr size_t kMostRemembered = 4096;
constexpr double kPicojoule = 1e-12;

// As far as they can be told.
int64_t Picoseconds(double seconds) { return std::llround(std::min(seconds * 1e12, 9e18)); }

// Heads that are alike, one after the other.
struct HeadGroup {
  AttentionSize size;
  int64_t count = 0;
};

// All that is done with one kind of head.
struct Cost {
  double picojoules[3] = {};  // Memory, 2D array, 1D array.
  double buffer_picojoules = 0;
  double operations = 0;
  double total() const { return picojoules[0] + picojoules[1] + picojoules[2] + buffer_picojoules; }
};

class Spatial : public Accelerator {
 public:
  explicit Spatial(SpatialMachine machine)
      : machine_(std::move(machine)), phases_(PhasesOf(machine_)) {}

  std::span<const std::string_view> policies() const override { return kPolicies; }
  double peak_operations() const override {
    return 2.0 * static_cast<double>(machine_.rows * machine_.columns) * machine_.clock_hz;
  }
  double peak_bandwidth() const override { return machine_.memory_bytes_per_second; }
  void Reset() override { now_seconds_ = 0; }
  absl::StatusOr<LayerCharge> Run(const LayerRecord& record, const RunScope& scope) override;

 private:
  // What one layer adds up to.
  struct Layer {
    v1::Simulation total;
    std::vector<double> picojoules;  // By sequence.
    std::vector<HeadGroup> groups;
    std::array<double, 3> cycles = {};  // As HeadWork has them.
    int window = 0;
    Timeline* timeline = nullptr;
  };

  absl::Status Check(const LayerRecord& record) const;
  absl::Status TooLong(double cycles) const {
    return InvalidArgument("preset '{}': a layer of {:.3g} cycles: at most {:.3g} are counted",
                           machine_.name, cycles, kMostCycles);
  }
  // Valid until the next call.
  absl::StatusOr<const HeadWork*> Work(const AttentionSize& size);
  Cost CostOf(const HeadWork& work) const;
  absl::Status AddHeads(const LayerRecord& record, Layer* layer);
  void AddWork(const HeadWork& work, const Cost& cost, double count, v1::Simulation* total) const;
  absl::Status RunAttention(Layer* layer);
  absl::Status RunPipeline(TilePipeline::Program program, size_t phase, Layer* layer);
  void AddLinear(const std::string& name, const LinearWork& work, std::string_view unit,
                 Layer* layer);
  void AddSeconds(double seconds, v1::Simulation* total);

  const SpatialMachine machine_;
  const std::vector<std::pair<size_t, size_t>> phases_;
  std::map<AttentionSize, HeadWork> remembered_;
  double now_seconds_ = 0;
};

absl::Status Spatial::Check(const LayerRecord& record) const {
  const LayerShape& shape = record.shape;
  if (shape.head_dim < 1 || shape.head_dim > kLargestHead || shape.heads < 1 ||
      shape.kv_heads < 1 || shape.hidden_size < 1 || shape.ffn_size < 0 || shape.ffn_matrices < 0) {
    return InvalidArgument(
        "layer {}: a shape of {} heads ({} of K and V) of dimension {}, hidden size {}, "
        "feed-forward size {} x {} can't be",
        record.layer, shape.heads, shape.kv_heads, shape.head_dim, shape.hidden_size,
        shape.ffn_size, shape.ffn_matrices);
  }
  for (size_t s = 0; s < record.sequences.size(); ++s) {
    const SequenceRecord& sequence = record.sequences[s];
    if (sequence.rows < 0 || sequence.keys < 0 || sequence.rows > kMostTokens ||
        sequence.keys > kMostTokens) {
      return InvalidArgument("layer {}, sequence {}: {} rows, {} keys are not from 0 to {}",
                             record.layer, s, sequence.rows, sequence.keys, kMostTokens);
    }
    if (sequence.heads.size() > static_cast<size_t>(shape.heads)) {
      return InvalidArgument("layer {}, sequence {}: {} heads ran of {}", record.layer, s,
                             sequence.heads.size(), shape.heads);
    }
    for (const HeadRecord& head : sequence.heads) {
      if (head.queries < 0 || head.keys < 0 || head.queries > sequence.rows ||
          head.keys > sequence.keys) {
        return InvalidArgument(
            "layer {}, sequence {}, head {}: {} queries and {} keys of {} rows and {} keys",
            record.layer, s, head.head, head.queries, head.keys, sequence.rows, sequence.keys);
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<const HeadWork*> Spatial::Work(const AttentionSize& size) {
  auto found = remembered_.find(size);
  if (found == remembered_.end()) {
    THRESHER_ASSIGN_OR_RETURN(HeadWork work, MapHead(machine_, size));
    if (remembered_.size() == kMostRemembered) remembered_.clear();
    found = remembered_.emplace(size, std::move(work)).first;
  }
  return &found->second;
}

Cost Spatial::CostOf(const HeadWork& work) const {
  Cost cost;
  cost.picojoules[SpatialMachine::kMemory] =
      work.memory_bytes * machine_.memory_picojoules_per_byte;
  cost.buffer_picojoules = work.buffer_reads * machine_.buffer_read_picojoules +
                           work.buffer_writes * machine_.buffer_write_picojoules;
  for (size_t i = 0; i < work.points.size(); ++i) {
    const bool on_2d = machine_.einsums[i].array == v1::ARRAY_2D;
    cost.picojoules[on_2d ? SpatialMachine::kArray2d : SpatialMachine::kArray1d] +=
        work.points[i] * machine_.einsums[i].picojoules;
    // The products: what takes in Q, K or V.
    const auto& inputs = machine_.cascade.einsums()[i].inputs;
    const bool product = std::any_of(inputs.begin(), inputs.end(), [&](const TensorUse& use) {
      return machine_.IsInput(use.tensor);
    });
    if (product) cost.operations += 2 * work.points[i];
  }
  return cost;
}

void Spatial::AddWork(const HeadWork& work, const Cost& cost, double count,
                      v1::Simulation* total) const {
  const double row_bytes = machine_.buffer_row_words * machine_.word_bytes;
  total->set_dram_bytes(total->dram_bytes() + work.memory_bytes * count);
  total->set_kv_bytes(total->kv_bytes() + work.kv_bytes * count);
  total->set_sram_bytes(total->sram_bytes() +
                        (work.buffer_reads + work.buffer_writes) * row_bytes * count);
  total->set_operations(total->operations() + cost.operations * count);
  auto& energy = *total->mutable_energy_by_part();
  for (int unit = 0; unit < 3; ++unit) {
    energy[std::string(kUnits[unit])] += cost.picojoules[unit] * count * kPicojoule;
  }
  energy["buffer"] += cost.buffer_picojoules * count * kPicojoule;
  auto& busy = *total->mutable_busy_cycles();
  for (size_t i = 0; i < work.points.size(); ++i) {
    const bool on_2d = machine_.einsums[i].array == v1::ARRAY_2D;
    const double elements =
        static_cast<double>(on_2d ? machine_.rows * machine_.columns : machine_.lanes);
    const double cycles =
        work.points[i] * static_cast<double>(machine_.einsums[i].cycles) / elements * count;
    const std::string unit(kUnits[on_2d ? SpatialMachine::kArray2d : SpatialMachine::kArray1d]);
    busy[unit] += cycles;
    busy[unit + "." + machine_.cascade.einsums()[i].output.tensor] += cycles;
  }
  busy["memory"] +=
      work.memory_bytes * count / machine_.memory_bytes_per_second * machine_.clock_hz;
}

absl::Status Spatial::AddHeads(const LayerRecord& record, Layer* layer) {
  const LayerShape& shape = record.shape;
  layer->picojoules.assign(record.sequences.size(), 0);
  for (size_t s = 0; s < record.sequences.size(); ++s) {
    const SequenceRecord& sequence = record.sequences[s];
    for (size_t h = 0; h < sequence.heads.size();) {
      const HeadRecord& head = sequence.heads[h];
      size_t alike = 1;
      while (h + alike < sequence.heads.size() &&
             sequence.heads[h + alike].queries == head.queries &&
             sequence.heads[h + alike].keys == head.keys) {
        ++alike;
      }
      h += alike;
      layer->total.set_softmax_rows(layer->total.softmax_rows() +
                                    head.queries * static_cast<int64_t>(alike));
      if (head.queries == 0 || head.keys == 0) continue;
      const AttentionSize size{head.queries, head.keys, shape.head_dim};
      THRESHER_ASSIGN_OR_RETURN(const HeadWork* work, Work(size));
      const double count = static_cast<double>(alike);
      const Cost cost = CostOf(*work);
      AddWork(*work, cost, count, &layer->total);
      layer->picojoules[s] += cost.total() * count;
      for (size_t unit = 0; unit < layer->cycles.size(); ++unit) {
        layer->cycles[unit] += work->cycles[unit] * count;
      }
      layer->window = layer->window == 0 ? work->window : std::min(layer->window, work->window);
      if (layer->groups.empty() || layer->groups.back().size != size) {
        layer->groups.push_back({size, 0});
      }
      layer->groups.back().count += static_cast<int64_t>(alike);
    }
    // Had nothing been pruned.
    const double rows = std::max(sequence.rows, sequence.dense_rows);
    const double keys = std::max(sequence.keys, sequence.dense_keys);
    const double vectors = static_cast<double>(shape.heads) * shape.head_dim;
    auto* dense = layer->total.mutable_kv_bytes_dense();
    dense->set_fp32(dense->fp32() + 2 * keys * vectors * 4);
    dense->set_fp16(dense->fp16() + 2 * keys * vectors * 2);
    dense->set_int12(dense->int12() + 2 * keys * vectors * 1.5);
    layer->total.set_operations_dense(layer->total.operations_dense() + 4 * rows * keys * vectors);
  }
  return absl::OkStatus();
}

void Spatial::AddSeconds(double seconds, v1::Simulation* total) {
  total->set_seconds(total->seconds() + seconds);
  now_seconds_ += seconds;
}

absl::Status Spatial::RunPipeline(TilePipeline::Program program, size_t phase, Layer* layer) {
  TilePipeline pipeline(std::move(program));
  const double ticks_per_second = machine_.clock_hz * SpatialMachine::kTicksPerCycle;
  if (layer->timeline != nullptr) {
    pipeline.Record(layer->timeline, now_seconds_ * 1e12, 1e12 / ticks_per_second);
  }
  for (const HeadGroup& group : layer->groups) {
    THRESHER_ASSIGN_OR_RETURN(const HeadWork* work, Work(group.size));
    pipeline.Run({.count = group.count, .body = {work->tiles[phase]}});
  }
  pipeline.Drain();
  auto& stalls = *layer->total.mutable_stall_cycles();
  for (const auto& [cause, ticks] : pipeline.stalls()) {
    stalls[cause] += static_cast<double>(ticks) / SpatialMachine::kTicksPerCycle;
  }
  AddSeconds(static_cast<double>(pipeline.now()) / ticks_per_second, &layer->total);
  return absl::OkStatus();
}

absl::Status Spatial::RunAttention(Layer* layer) {
  if (layer->groups.empty()) return absl::OkStatus();
  const double cycles = layer->cycles[0] + layer->cycles[1] + layer->cycles[2];
  if (!(cycles < kMostCycles)) return TooLong(cycles);
  if (!machine_.spec.has_unfused()) {
    TilePipeline::Program program = machine_.program;
    program.window = layer->window;
    return RunPipeline(std::move(program), 0, layer);
  }
  for (size_t phase = 0; phase < phases_.size(); ++phase) {
    const auto [first, last] = phases_[phase];
    THRESHER_RETURN_IF_ERROR(RunPipeline(machine_.Phase(first, last), phase, layer));
  }
  return absl::OkStatus();
}

void Spatial::AddLinear(const std::string& name, const LinearWork& work, std::string_view unit,
                        Layer* layer) {
  v1::Simulation& total = layer->total;
  const double buffer = work.buffer_reads * machine_.buffer_read_picojoules +
                        work.buffer_writes * machine_.buffer_write_picojoules;
  auto& energy = *total.mutable_energy_by_part();
  energy[std::string(unit)] += work.picojoules * kPicojoule;
  energy["buffer"] += buffer * kPicojoule;
  const double memory = work.memory_bytes * machine_.memory_picojoules_per_byte;
  energy["memory"] += memory * kPicojoule;
  total.set_dram_bytes(total.dram_bytes() + work.memory_bytes);
  total.set_sram_bytes(total.sram_bytes() + (work.buffer_reads + work.buffer_writes) *
                                                machine_.buffer_row_words * machine_.word_bytes);
  auto& busy = *total.mutable_busy_cycles();
  busy[std::string(unit)] += work.busy_cycles;
  busy[fmt::format("{}.{}", unit, name)] += work.busy_cycles;
  const double memory_cycles =
      work.memory_bytes / machine_.memory_bytes_per_second * machine_.clock_hz;
  busy["memory"] += memory_cycles;
  if (memory_cycles > work.cycles) {
    (*total.mutable_stall_cycles())[fmt::format("{}: waits for memory", unit)] +=
        memory_cycles - work.cycles;
  }
  const double began = now_seconds_;
  AddSeconds(work.seconds, &total);
  if (layer->timeline != nullptr) {
    layer->timeline->Add(std::string(unit), name, Picoseconds(began), Picoseconds(now_seconds_));
    layer->timeline->Add("memory", name, Picoseconds(began),
                         Picoseconds(began + memory_cycles / machine_.clock_hz));
  }
}

absl::StatusOr<LayerCharge> Spatial::Run(const LayerRecord& record, const RunScope& scope) {
  THRESHER_RETURN_IF_ERROR(Check(record));
  const double began = now_seconds_;
  Layer layer;
  layer.timeline = scope.timeline;
  layer.total.set_preset(machine_.name);
  THRESHER_RETURN_IF_ERROR(AddHeads(record, &layer));
  const double attention_picojoules =
      std::accumulate(layer.picojoules.begin(), layer.picojoules.end(), 0.0);

  const LayerShape& shape = record.shape;
  double rows = 0;
  double head_rows = 0;
  double dense_rows = 0;
  for (const SequenceRecord& sequence : record.sequences) {
    rows += sequence.rows;
    head_rows += static_cast<double>(sequence.rows) * static_cast<double>(sequence.heads.size());
    dense_rows += std::max(sequence.rows, sequence.dense_rows);
  }
  const bool whole_layer = !scope.attention_only && rows > 0;
  const double hidden = shape.hidden_size;
  const double width = whole_layer ? head_rows / rows * shape.head_dim : 0;
  const double kv_width = width * shape.kv_heads / shape.heads;
  const auto linear = [&](const std::string& name, double inputs, double outputs) {
    if (inputs == 0 || outputs == 0) return;
    layer.total.set_operations(layer.total.operations() + 2 * rows * inputs * outputs);
    AddLinear(name, RunLinear(machine_, {rows, inputs, outputs}), kUnits[SpatialMachine::kArray2d],
              &layer);
  };
  if (whole_layer) {
    linear("query", hidden, width);
    linear("key", hidden, kv_width);
    linear("value", hidden, kv_width);
  }
  THRESHER_RETURN_IF_ERROR(RunAttention(&layer));
  if (whole_layer) {
    linear("output", width, hidden);
    for (int i = 1; i < shape.ffn_matrices; ++i) linear("ffn_in", hidden, shape.ffn_size);
    linear("ffn_out", shape.ffn_size, hidden);
    if (machine_.norm_cycles > 0) {
      AddLinear("norms", RunNorms(machine_, rows, hidden), kUnits[SpatialMachine::kArray1d],
                &layer);
    }
    const double vectors = static_cast<double>(shape.heads) * shape.head_dim;
    const double kv_vectors = static_cast<double>(shape.kv_heads) * shape.head_dim;
    layer.total.set_operations_dense(
        layer.total.operations_dense() +
        2 * dense_rows * hidden *
            (2 * vectors + 2 * kv_vectors +
             static_cast<double>(shape.ffn_matrices) * shape.ffn_size));
  }

  const double cycles = layer.total.seconds() * machine_.clock_hz;
  if (!(cycles < kMostCycles)) {
    now_seconds_ = began;
    return TooLong(cycles);
  }

  LayerCharge charge;
  charge.total = std::move(layer.total);
  charge.total.set_dram_bytes_plain(charge.total.dram_bytes());
  charge.total.set_cycles(std::llround(cycles));
  double joules = 0;
  // In an order of its own: the message's map has another one each time.
  const auto& parts = charge.total.energy_by_part();
  for (const auto& [part, energy] : std::map(parts.begin(), parts.end())) joules += energy;
  charge.total.set_energy_joules(joules);
  // Attention by what each sequence took, the rest by rows.
  const double rest = std::max(0.0, joules / kPicojoule - attention_picojoules);
  const double all = attention_picojoules + rest;
  const double count = static_cast<double>(record.sequences.size());
  for (size_t s = 0; s < record.sequences.size(); ++s) {
    const double of_rows = rows > 0 ? record.sequences[s].rows / rows : 1 / count;
    charge.shares.push_back(all > 0 ? (layer.picojoules[s] + rest * of_rows) / all : 1 / count);
  }
  return charge;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Accelerator>> CreateSpatial(const v1::Preset& preset) {
  THRESHER_ASSIGN_OR_RETURN(SpatialMachine machine, CreateSpatialMachine(preset));
  return std::make_unique<Spatial>(std::move(machine));
}

}  // namespace thresher
