#include "backend/device/simulator/spatial/machine.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <system_error>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int kMostEinsums = 64;
constexpr size_t kMostInputs = 6;

bool IsPositive(double value, double most) {
  return std::isfinite(value) && value > 0 && value <= most;
}
bool IsEnergy(double picojoules) {
  return std::isfinite(picojoules) && picojoules >= 0 && picojoules <= 1e12;
}

absl::Status CheckUnits(const v1::SpatialSpec& spec) {
  if (!IsPositive(spec.clock_hz(), 1e12)) {
    return InvalidArgument("clock_hz: {} is not a clock", spec.clock_hz());
  }
  if (spec.word_bits() < 1 || spec.word_bits() > 64) {
    return InvalidArgument("word_bits: {} is not from 1 to 64", spec.word_bits());
  }
  const std::pair<std::string_view, int32_t> sizes[] = {
      {"array_2d.rows", spec.array_2d().rows()},
      {"array_2d.columns", spec.array_2d().columns()},
      {"array_1d_units", spec.array_1d_units()}};
  for (const auto& [field, size] : sizes) {
    if (size < 1 || size > 65536)
      return InvalidArgument("{}: {} is not from 1 to 65536", field, size);
  }
  const v1::GlobalBuffer& buffer = spec.buffer();
  if (buffer.row_bytes() < 1 || buffer.bytes() < buffer.row_bytes() ||
      buffer.bytes() > (int64_t{1} << 50)) {
    return InvalidArgument("buffer: {} bytes in rows of {} hold nothing", buffer.bytes(),
                           buffer.row_bytes());
  }
  if (!IsEnergy(buffer.read_picojoules()) || !IsEnergy(buffer.write_picojoules())) {
    return InvalidArgument("buffer: energies are at least 0");
  }
  for (const auto& [name, picojoules] : spec.op_picojoules()) {
    if (!IsEnergy(picojoules)) {
      return InvalidArgument("op_picojoules '{}': {} is not an energy", name, picojoules);
    }
  }
  if (spec.op_picojoules().count("mac") == 0) {
    return InvalidArgument("op_picojoules: 'mac' is missing, which linear layers are made of");
  }
  return absl::OkStatus();
}

absl::Status CheckMemory(const v1::DramSpec& dram) {
  if (!dram.has_flat()) {
    return InvalidArgument("dram: spatial arrays are modelled with a `flat` memory only");
  }
  if (!IsPositive(dram.flat().bytes_per_second(), 1e18)) {
    return InvalidArgument("dram.flat.bytes_per_second: {} moves nothing",
                           dram.flat().bytes_per_second());
  }
  if (!IsEnergy(dram.flat().picojoules_per_bit())) {
    return InvalidArgument("dram.flat.picojoules_per_bit: {} is not an energy",
                           dram.flat().picojoules_per_bit());
  }
  return absl::OkStatus();
}

struct Operations {
  int64_t count = 0;
  double picojoules = 0;
};

// "6 mac + add".
absl::StatusOr<Operations> ParseOperations(std::string_view text, const v1::SpatialSpec& spec) {
  Operations operations;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('+', begin), text.size());
    std::string_view item = text.substr(begin, end - begin);
    begin = end + 1;
    const auto trim = [&] {
      while (!item.empty() && item.front() == ' ') item.remove_prefix(1);
      while (!item.empty() && item.back() == ' ') item.remove_suffix(1);
    };
    trim();
    int count = 1;
    if (!item.empty() && item.front() >= '0' && item.front() <= '9') {
      const auto [stop, error] = std::from_chars(item.data(), item.data() + item.size(), count);
      if (error != std::errc() || count < 1 || count > 1000) {
        return InvalidArgument("'{}': counts are from 1 to 1000", item);
      }
      item.remove_prefix(static_cast<size_t>(stop - item.data()));
      trim();
    }
    const auto energy = spec.op_picojoules().find(std::string(item));
    if (energy == spec.op_picojoules().end()) {
      return InvalidArgument("op_picojoules has no operation '{}'", item);
    }
    operations.count += count;
    operations.picojoules += count * energy->second;
  }
  return operations;
}

absl::StatusOr<BoundEinsum> Bind(const v1::BoundEinsum& spec, const Einsum& einsum,
                                 const v1::SpatialSpec& machine) {
  BoundEinsum bound;
  if (spec.array() != v1::ARRAY_2D && spec.array() != v1::ARRAY_1D) {
    return InvalidArgument("array: one of ARRAY_2D and ARRAY_1D");
  }
  bound.array = spec.array();
  auto operations = ParseOperations(spec.ops(), machine);
  if (!operations.ok()) return Annotate(operations.status(), "ops");
  if (spec.cycles() < 0 || spec.cycles() > 100'000) {
    return InvalidArgument("cycles: {} is not from 0 to 100000", spec.cycles());
  }
  bound.cycles = spec.cycles() > 0 ? spec.cycles() : operations->count;
  bound.picojoules = operations->picojoules;
  for (const std::string& tensor : spec.from_buffer()) {
    const bool reads = std::any_of(einsum.inputs.begin(), einsum.inputs.end(),
                                   [&](const TensorUse& use) { return use.tensor == tensor; });
    if (!reads) return InvalidArgument("from_buffer: '{}' is none of its inputs", tensor);
    bound.from_buffer.push_back(tensor);
  }
  bound.to_buffer = spec.to_buffer();
  return bound;
}

bool IsRankOfKeys(std::string_view rank) { return rank == "m" || rank == "m1" || rank == "m0"; }

// The ranks that attention has, and where its inputs and its output lie.
absl::Status CheckAttention(const EinsumCascade& cascade) {
  bool by_queries = false;
  bool by_keys = false;
  for (size_t i = 0; i < cascade.einsums().size(); ++i) {
    const Einsum& einsum = cascade.einsums()[i];
    for (const std::string& rank : einsum.Ranks()) {
      if (rank != "p" && rank != "e" && rank != "f" && !IsRankOfKeys(rank)) {
        return InvalidArgument("einsums[{}].einsum: rank {} is none of p, m, m1, m0, e and f", i,
                               rank);
      }
    }
    if (!einsum.Iterates("p")) {
      return InvalidArgument("einsums[{}].einsum: it has no rank p", i);
    }
    for (const TensorUse& input : einsum.inputs) {
      if (cascade.MakerOf(input.tensor) >= 0) continue;
      const bool keys = std::any_of(input.ranks.begin(), input.ranks.end(), IsRankOfKeys);
      if (keys == input.Has("p") || input.next) {
        return InvalidArgument("einsums[{}].einsum: the input {} has either rank p or that of keys",
                               i, input.tensor);
      }
      (keys ? by_keys : by_queries) = true;
    }
  }
  if (!by_queries || !by_keys) {
    return InvalidArgument("einsums: attention reads an input by queries (p) and one by keys (m)");
  }
  const TensorUse& output = cascade.einsums().back().output;
  if (!output.Has("p") || std::any_of(output.ranks.begin(), output.ranks.end(), IsRankOfKeys)) {
    return InvalidArgument(
        "einsums: the last one makes the output, which has p and no rank of keys");
  }
  return absl::OkStatus();
}

absl::Status CheckMapping(const SpatialMachine& machine) {
  const v1::SpatialSpec& spec = machine.spec;
  const bool chunked = spec.has_chunked();
  if (!chunked && !spec.has_fused() && !spec.has_unfused()) {
    return InvalidArgument("mapping: one of chunked, fused and unfused");
  }
  if (machine.einsums.back().to_buffer) {
    return InvalidArgument("einsums: the last one's output goes to memory: no to_buffer");
  }
  if (chunked) {
    if (machine.cascade.Outermost("m") != "m1") {
      return InvalidArgument("chunked: the cascade needs its keys in chunks, ranks m1 and m0");
    }
    if (const int passes = machine.cascade.Passes("m"); passes != 1) {
      return InvalidArgument(
          "chunked: the cascade makes {} passes over m, and a chunk is gone after the first",
          passes);
    }
    // With the shortest vectors there are: nothing fits if this does not.
    double words = 0;
    for (const auto& [tensor, live] : machine.cascade.LiveWords(
             "m", {{"p", machine.rows}, {"m0", machine.columns}, {"e", 1}, {"f", 1}})) {
      if (machine.InBuffer(tensor)) words += static_cast<double>(live);
    }
    if (words * machine.word_bytes > machine.buffer_bytes) {
      return InvalidArgument(
          "buffer.bytes: {} do not hold the {:.0f} that one tile takes, whatever the head "
          "dimension",
          machine.buffer_bytes, words * machine.word_bytes);
    }
    return absl::OkStatus();
  }
  for (size_t i = 0; i < machine.einsums.size(); ++i) {
    for (const std::string& tensor : machine.einsums[i].from_buffer) {
      if (machine.IsInput(tensor)) {
        return InvalidArgument(
            "einsums[{}].from_buffer: where the input {} lies is for the mapping to say", i,
            tensor);
      }
    }
  }
  std::set<std::string> tensors;
  std::set<std::string> inputs;
  for (const Einsum& einsum : machine.cascade.einsums()) {
    tensors.insert(einsum.output.tensor);
    for (const TensorUse& input : einsum.inputs) {
      tensors.insert(input.tensor);
      if (machine.IsInput(input.tensor)) inputs.insert(input.tensor);
    }
  }
  if (spec.has_fused() && inputs.size() > kMostInputs) {
    return InvalidArgument(
        "einsums: {} inputs are too many to search for a place for each, {} "
        "are not",
        inputs.size(), kMostInputs);
  }
  for (int i = 0; i < spec.fused().choices_size(); ++i) {
    const v1::FusedMapping::Choice& choice = spec.fused().choices(i);
    if (choice.stationary() == v1::FusedMapping::STATIONARY_UNSPECIFIED) {
      return InvalidArgument("fused.choices[{}].stationary: OUTPUT or WEIGHT", i);
    }
    if (choice.rows() < 0 || choice.up_to_tokens() < 0 || choice.up_to_head_dim() < 0) {
      return InvalidArgument("fused.choices[{}]: numbers are at least 0", i);
    }
    for (const std::string& tensor : choice.on_chip()) {
      if (tensors.count(tensor) == 0) {
        return InvalidArgument("fused.choices[{}].on_chip: the cascade has no tensor '{}'", i,
                               tensor);
      }
    }
  }
  return absl::OkStatus();
}

TilePipeline::Step MemoryStep() {
  return {.name = "memory", .unit = SpatialMachine::kMemory, .ahead = true};
}

int UnitOf(v1::SpatialArray array) {
  return array == v1::ARRAY_2D ? SpatialMachine::kArray2d : SpatialMachine::kArray1d;
}

absl::Status AddStages(SpatialMachine* machine) {
  auto& steps = machine->program.steps;
  steps.push_back(MemoryStep());
  machine->steps.assign(machine->einsums.size(), -1);
  std::vector<int> einsum_of = {-1};
  std::vector<std::vector<int>> steps_of_tile(1);
  for (int s = 0; s < machine->spec.stages_size(); ++s) {
    const v1::Stage& stage = machine->spec.stages(s);
    if (stage.stall_cycles() < 0 || stage.stall_cycles() > 1'000'000) {
      return InvalidArgument("stages[{}].stall_cycles: {} is not from 0 to 1000000", s,
                             stage.stall_cycles());
    }
    const size_t before = steps.size();
    for (const v1::SpatialArray array : {v1::ARRAY_2D, v1::ARRAY_1D}) {
      for (const std::string& name : array == v1::ARRAY_2D ? stage.array_2d() : stage.array_1d()) {
        const int einsum = machine->cascade.MakerOf(name);
        if (einsum < 0 || machine->einsums[einsum].array != array) {
          return InvalidArgument("stages[{}]: no Einsum makes '{}' on that array", s, name);
        }
        if (machine->steps[einsum] >= 0) {
          return InvalidArgument("stages[{}]: '{}' is there twice", s, name);
        }
        machine->steps[einsum] = static_cast<int>(steps.size());
        einsum_of.push_back(einsum);
        steps.push_back({.name = name, .unit = UnitOf(array)});
      }
    }
    if (steps.size() == before) return InvalidArgument("stages[{}] is empty", s);
    if (machine->spec.lockstep() || stage.stall_cycles() > 0) {
      steps.back().barrier = true;
      steps.back().barrier_ticks = stage.stall_cycles() * SpatialMachine::kTicksPerCycle;
      steps.back().barrier_cause =
          stage.stall_cause().empty() ? "arrays: wait for each other" : stage.stall_cause();
    }
  }
  for (size_t i = 0; i < machine->einsums.size(); ++i) {
    if (machine->steps[i] < 0) {
      return InvalidArgument("stages: '{}' is in none of them",
                             machine->cascade.einsums()[i].output.tensor);
    }
  }
  for (size_t step = 1; step < steps.size(); ++step) {
    std::vector<int> of_tile;  // What it waits for that is of the same tile.
    for (const TensorUse& use : machine->cascade.einsums()[einsum_of[step]].inputs) {
      const int maker = machine->cascade.MakerOf(use.tensor);
      steps[step].inputs.push_back(maker < 0 ? 0 : machine->steps[maker]);
      // A running value from before this chunk was made with the tile before.
      if (maker >= 0 && !machine->cascade.IsBefore(use)) of_tile.push_back(machine->steps[maker]);
    }
    for (const int input : of_tile) {
      steps[step].behind |= input > static_cast<int>(step) || steps[input].behind;
    }
    steps_of_tile.push_back(std::move(of_tile));
  }
  for (size_t step = 1; step < steps.size(); ++step) {
    for (const int input : steps_of_tile[step]) {
      if (steps[step].behind && steps[input].behind && input > static_cast<int>(step)) {
        return InvalidArgument("stages: '{}' would be two tiles behind: put it after '{}'",
                               steps[step].name, steps[input].name);
      }
    }
  }
  return absl::OkStatus();
}

// All but the memory.
absl::StatusOr<SpatialMachine> ReadSpec(const v1::SpatialSpec& spec) {
  THRESHER_RETURN_IF_ERROR(CheckUnits(spec));
  SpatialMachine machine;
  machine.spec = spec;
  machine.clock_hz = spec.clock_hz();
  machine.word_bytes = spec.word_bits() / 8.0;
  machine.rows = spec.array_2d().rows();
  machine.columns = spec.array_2d().columns();
  machine.lanes = spec.array_1d_units();
  machine.buffer_bytes = static_cast<double>(spec.buffer().bytes());
  machine.buffer_row_words = spec.buffer().row_bytes() / machine.word_bytes;
  machine.buffer_read_picojoules = spec.buffer().read_picojoules();
  machine.buffer_write_picojoules = spec.buffer().write_picojoules();
  machine.mac_picojoules = spec.op_picojoules().at("mac");
  if (!spec.norm_ops().empty()) {
    const auto norm = ParseOperations(spec.norm_ops(), spec);
    if (!norm.ok()) return Annotate(norm.status(), "norm_ops");
    machine.norm_cycles = norm->count;
    machine.norm_picojoules = norm->picojoules;
  }
  if (spec.einsums_size() > kMostEinsums) {
    return InvalidArgument("einsums: {}, at most {}", spec.einsums_size(), kMostEinsums);
  }
  std::vector<Einsum> einsums;
  for (int i = 0; i < spec.einsums_size(); ++i) {
    const std::string field = fmt::format("einsums[{}]", i);
    auto einsum = ParseEinsum(spec.einsums(i).einsum());
    if (!einsum.ok()) return Annotate(einsum.status(), field);
    auto bound = Bind(spec.einsums(i), *einsum, spec);
    if (!bound.ok()) return Annotate(bound.status(), field);
    einsums.push_back(*std::move(einsum));
    machine.einsums.push_back(*std::move(bound));
  }
  auto cascade = EinsumCascade::Create(std::move(einsums));
  if (!cascade.ok()) return Annotate(cascade.status(), "einsums");
  machine.cascade = *std::move(cascade);
  THRESHER_RETURN_IF_ERROR(CheckAttention(machine.cascade));
  THRESHER_RETURN_IF_ERROR(CheckMapping(machine));
  machine.program.units = {"memory", "array_2d", "array_1d"};
  if (!spec.has_unfused()) {
    THRESHER_RETURN_IF_ERROR(AddStages(&machine));
  } else if (spec.stages_size() > 0) {
    return InvalidArgument("stages: an unfused run takes the Einsums one after the other");
  }
  return machine;
}

}  // namespace

int64_t SpatialMachine::MemoryTicks(double bytes) const {
  if (bytes <= 0) return 0;
  const double ticks = bytes / memory_bytes_per_second * clock_hz * kTicksPerCycle;
  return std::max<int64_t>(1, std::llround(std::min(ticks, 0x1p60)));
}

bool SpatialMachine::InBuffer(std::string_view tensor) const {
  for (size_t i = 0; i < einsums.size(); ++i) {
    if (einsums[i].to_buffer && cascade.einsums()[i].output.tensor == tensor) return true;
    for (const std::string& from : einsums[i].from_buffer) {
      if (from == tensor) return true;
    }
  }
  return false;
}

TilePipeline::Program SpatialMachine::Phase(size_t first, size_t last) const {
  TilePipeline::Program phase;
  phase.units = program.units;
  phase.steps.push_back(MemoryStep());
  phase.window = 2;  // Double buffers.
  for (size_t i = first; i < last; ++i) {
    TilePipeline::Step step{.name = cascade.einsums()[i].output.tensor,
                            .unit = UnitOf(einsums[i].array)};
    for (const TensorUse& use : cascade.einsums()[i].inputs) {
      const int maker = cascade.MakerOf(use.tensor);
      const bool within = maker >= static_cast<int>(first) && maker < static_cast<int>(i);
      step.inputs.push_back(within ? maker - static_cast<int>(first) + 1 : 0);
    }
    phase.steps.push_back(std::move(step));
  }
  return phase;
}

absl::StatusOr<SpatialMachine> CreateSpatialMachine(const v1::Preset& preset) {
  const std::string where = fmt::format("preset '{}'", preset.name());
  auto machine = ReadSpec(preset.spatial());
  if (!machine.ok()) return Annotate(machine.status(), where + ": spatial");
  const absl::Status memory = CheckMemory(preset.dram());
  if (!memory.ok()) return Annotate(memory, where);
  machine->name = preset.name();
  machine->memory_bytes_per_second = preset.dram().flat().bytes_per_second();
  machine->memory_picojoules_per_byte = preset.dram().flat().picojoules_per_bit() * 8;
  return machine;
}

}  // namespace thresher
