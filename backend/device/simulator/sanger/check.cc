#include "backend/device/simulator/sanger/check.h"

#include <cstdint>
#include <string_view>

#include "backend/device/simulator/sanger/pack.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 17;
constexpr int32_t kMostHeads = 1 << 12;
constexpr int32_t kMostWidth = 1 << 20;

absl::Status InRange(std::string_view field, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return InvalidArgument("{}: {} must lie within {} and {}", field, value, least, most);
}

absl::Status CheckSequence(const SequenceRecord& sequence, const LayerShape& shape) {
  THRESHER_RETURN_IF_ERROR(InRange("rows", sequence.rows, 0, kMostTokens));
  THRESHER_RETURN_IF_ERROR(InRange("keys", sequence.keys, sequence.rows, kMostTokens));
  THRESHER_RETURN_IF_ERROR(InRange("dense_rows", sequence.dense_rows, 0, kMostTokens));
  THRESHER_RETURN_IF_ERROR(InRange("dense_keys", sequence.dense_keys, 0, kMostTokens));
  int64_t sight = 0;
  for (int64_t row = 0; row < sequence.rows; ++row) {
    sight += SangerSight(sequence, shape.causal, row);
  }
  int32_t last = -1;
  for (const HeadRecord& head : sequence.heads) {
    const auto where = fmt::format("head {}", head.head);
    if (head.head <= last || head.head >= shape.heads) {
      return InvalidArgument("{}: heads must ascend within {}", where, shape.heads);
    }
    last = head.head;
    THRESHER_RETURN_IF_ERROR(Annotate(InRange("queries", head.queries, 0, sequence.rows), where));
    THRESHER_RETURN_IF_ERROR(Annotate(InRange("scores", head.scores, 0, sight), where));
    if (head.refetched != 0) {
      return InvalidArgument("{}: refetched: {}: there is no hardware for progressive quantization",
                             where, head.refetched);
    }
  }
  const CandidateMask* const mask = sequence.candidates;
  if (mask != nullptr && (mask->heads() != shape.heads || mask->queries() != sequence.rows ||
                          mask->keys() != sequence.keys)) {
    return InvalidArgument("candidates: {} x {} x {} for {} heads, {} rows and {} keys",
                           mask->heads(), mask->queries(), mask->keys(), shape.heads, sequence.rows,
                           sequence.keys);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSangerPreset(const v1::Preset& preset) {
  const v1::SangerSpec& spec = preset.sanger();
  constexpr double kMany = 1 << 20;
  const auto check = [](std::string_view field, double value, double least, double most) {
    if (value >= least && value <= most) return absl::OkStatus();
    return InvalidArgument("{}: {} must lie within {} and {}", field, value, least, most);
  };
  THRESHER_RETURN_IF_ERROR(check("sanger.clock_hz", spec.clock_hz(), 1e6, 1e12));
  THRESHER_RETURN_IF_ERROR(check("sanger.array_rows", spec.array_rows(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(check("sanger.row_elements", spec.row_elements(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(check("sanger.vector_keys", spec.vector_keys(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(check("sanger.element_bits", spec.element_bits(), 1, 32));
  THRESHER_RETURN_IF_ERROR(check("sanger.skew_cycles", spec.skew_cycles(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(check("sanger.exponent_cycles", spec.exponent_cycles(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(check("sanger.sum_cycles", spec.sum_cycles(), 0, kMany));
  const v1::SangerPrediction& prediction = spec.prediction();
  THRESHER_RETURN_IF_ERROR(check("sanger.prediction.bits", prediction.bits(), 1, 32));
  THRESHER_RETURN_IF_ERROR(check("sanger.prediction.array_rows", prediction.array_rows(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(
      check("sanger.prediction.array_columns", prediction.array_columns(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(
      check("sanger.prediction.turn_cycles", prediction.turn_cycles(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(
      check("sanger.prediction.vectors_each_cycle", prediction.vectors_each_cycle(), 1, 4096));
  const v1::SangerEnergy& energy = spec.energy();
  THRESHER_RETURN_IF_ERROR(check("sanger.energy.scale", energy.scale(), 0, 1e3));
  THRESHER_RETURN_IF_ERROR(check("sanger.energy.multiply", energy.multiply(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("sanger.energy.add", energy.add(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("sanger.energy.predict", energy.predict(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("sanger.energy.exponent", energy.exponent(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("sanger.energy.divide", energy.divide(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("sanger.energy.sram_byte", energy.sram_byte(), 0, 1e9));
  if (!preset.dram().has_flat()) {
    return InvalidArgument("dram.flat: is missing: the memory streams at one rate");
  }
  const v1::FlatMemorySpec& memory = preset.dram().flat();
  THRESHER_RETURN_IF_ERROR(check("dram.flat.bytes_per_second", memory.bytes_per_second(), 1, 1e18));
  THRESHER_RETURN_IF_ERROR(
      check("dram.flat.picojoules_per_bit", memory.picojoules_per_bit(), 0, 1e9));
  if (memory.burst_bytes() != 0 || memory.latency_nanoseconds() != 0 || memory.queue_depth() != 0) {
    return InvalidArgument("dram.flat: nothing but a rate and an energy is used");
  }
  return absl::OkStatus();
}

absl::Status CheckSangerRecord(const LayerRecord& record) {
  const LayerShape& shape = record.shape;
  THRESHER_RETURN_IF_ERROR(InRange("shape.heads", shape.heads, 1, kMostHeads));
  THRESHER_RETURN_IF_ERROR(InRange("shape.kv_heads", shape.kv_heads, 1, shape.heads));
  THRESHER_RETURN_IF_ERROR(InRange("shape.head_dim", shape.head_dim, 1, kMostWidth));
  THRESHER_RETURN_IF_ERROR(InRange("shape.hidden_size", shape.hidden_size, 1, kMostWidth));
  THRESHER_RETURN_IF_ERROR(InRange("shape.ffn_size", shape.ffn_size, 1, kMostWidth));
  THRESHER_RETURN_IF_ERROR(InRange("shape.ffn_matrices", shape.ffn_matrices, 1, 3));
  for (size_t i = 0; i < record.sequences.size(); ++i) {
    THRESHER_RETURN_IF_ERROR(
        Annotate(CheckSequence(record.sequences[i], shape), fmt::format("sequence {}", i)));
  }
  return absl::OkStatus();
}

}  // namespace thresher
