#include "backend/device/simulator/fact/check.h"

#include <cstdint>

#include "backend/device/simulator/fact/geometry.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 24;
constexpr int32_t kMostHeads = 1 << 12;
constexpr int32_t kMostWidth = 1 << 20;
constexpr int32_t kMostBits = 32;

absl::Status InRange(const char* field, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return InvalidArgument("{}: {} must lie within {} and {}", field, value, least, most);
}

/// `sight`: the pairs of a query and a key that it sees.
absl::Status CheckHead(const HeadRecord& head, const SequenceRecord& sequence, int64_t sight) {
  THRESHER_RETURN_IF_ERROR(InRange("queries", head.queries, 0, sequence.rows));
  THRESHER_RETURN_IF_ERROR(InRange("keys", head.keys, 0, sequence.keys));
  THRESHER_RETURN_IF_ERROR(InRange("scores", head.scores, 0, head.queries * head.keys));
  // Values are those of the scores, and of the one-hot queries; their count is not needed.
  if (head.refetched != 0) {
    return InvalidArgument("refetched: {}: there is no hardware for progressive quantization",
                           head.refetched);
  }
  if (head.scores > sight) {
    return InvalidArgument("scores: {} are more than the {} pairs in sight", head.scores, sight);
  }
  return absl::OkStatus();
}

absl::Status CheckSequence(const SequenceRecord& sequence, const LayerShape& shape,
                           const v1::FactSpec& spec) {
  THRESHER_RETURN_IF_ERROR(InRange("rows", sequence.rows, 0, kMostTokens));
  THRESHER_RETURN_IF_ERROR(InRange("keys", sequence.keys, sequence.rows, kMostTokens));
  THRESHER_RETURN_IF_ERROR(InRange("dense_rows", sequence.dense_rows, 0, kMostTokens));
  THRESHER_RETURN_IF_ERROR(InRange("dense_keys", sequence.dense_keys, 0, kMostTokens));
  const int64_t rows = sequence.rows;
  THRESHER_RETURN_IF_ERROR(InRange("query_rows", sequence.query_rows, 0, rows * shape.heads));
  THRESHER_RETURN_IF_ERROR(InRange("key_rows", sequence.key_rows, 0, rows * shape.kv_heads));
  THRESHER_RETURN_IF_ERROR(InRange("value_rows", sequence.value_rows, 0, rows * shape.kv_heads));
  THRESHER_RETURN_IF_ERROR(
      InRange("predicted_rows", sequence.predicted_rows, 0, rows * (shape.heads + shape.kv_heads)));
  THRESHER_RETURN_IF_ERROR(InRange("ffn_low_rows", sequence.ffn_low_rows, 0, rows));
  if (sequence.ffn_low_rows > 0) {
    THRESHER_RETURN_IF_ERROR(InRange("ffn_low_bits", sequence.ffn_low_bits, 1, kMostBits));
  }
  // Half of the buffer is one head's: its K and its V.
  const int64_t bits = 2 * int64_t{sequence.keys} * shape.head_dim * spec.element_bits();
  if (bits > spec.kv_sram_bytes() / 2 * 8) {
    return InvalidArgument(
        "keys: {}: K and V of a head, of {} elements of {} bits each, do not fit "
        "into half of fact.kv_sram_bytes ({})",
        sequence.keys, shape.head_dim, spec.element_bits(), spec.kv_sram_bytes());
  }
  int64_t sight = 0;
  for (int64_t row = 0; row < rows; ++row) sight += SightOf(sequence, shape.causal, row);
  int32_t last = -1;
  for (const HeadRecord& head : sequence.heads) {
    if (head.head <= last || head.head >= shape.heads) {
      return InvalidArgument("head {}: heads must ascend within {}", head.head, shape.heads);
    }
    last = head.head;
    THRESHER_RETURN_IF_ERROR(
        Annotate(CheckHead(head, sequence, sight), fmt::format("head {}", head.head)));
  }
  const CandidateMask* const mask = sequence.candidates;
  if (mask != nullptr && (mask->heads() != shape.heads || mask->queries() != rows ||
                          mask->keys() != rows || sequence.keys != rows)) {
    return InvalidArgument("candidates: {} x {} x {} for {} heads and {} rows", mask->heads(),
                           mask->queries(), mask->keys(), shape.heads, rows);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckFactSpec(const v1::FactSpec& spec) {
  constexpr double kMany = 1 << 20;
  const auto check = [](const char* field, double value, double least, double most) {
    if (value >= least && value <= most) return absl::OkStatus();
    return InvalidArgument("fact.{}: {} must lie within {} and {}", field, value, least, most);
  };
  THRESHER_RETURN_IF_ERROR(check("clock_hz", spec.clock_hz(), 1e6, 1e12));
  THRESHER_RETURN_IF_ERROR(check("array_rows", spec.array_rows(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(check("array_columns", spec.array_columns(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(check("array_depth", spec.array_depth(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(check("element_bits", spec.element_bits(), 1, kMostBits));
  THRESHER_RETURN_IF_ERROR(check("activation_banks", spec.activation_banks(), 1, 64));
  THRESHER_RETURN_IF_ERROR(check("kv_banks", spec.kv_banks(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(check("generation_window", spec.generation_window(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(check("prediction.adders", spec.prediction().adders(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(
      check("prediction.top_k_lanes", spec.prediction().top_k_lanes(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(check("prediction.latency", spec.prediction().latency(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(check("prediction.row_queue", spec.prediction().row_queue(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(check("softmax.lanes", spec.softmax().lanes(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(check("softmax.latency", spec.softmax().latency(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(check("softmax.queue", spec.softmax().queue(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(check("norm_passes", spec.norm_passes(), 0, 64));
  const auto bytes = [&](const char* field, int64_t value) {
    return check(field, static_cast<double>(value), 1, 1e12);
  };
  THRESHER_RETURN_IF_ERROR(bytes("activation_sram_bytes", spec.activation_sram_bytes()));
  THRESHER_RETURN_IF_ERROR(bytes("weight_sram_bytes", spec.weight_sram_bytes()));
  THRESHER_RETURN_IF_ERROR(bytes("kv_sram_bytes", spec.kv_sram_bytes()));
  const v1::FactFetch& fetch = spec.fetch();
  THRESHER_RETURN_IF_ERROR(check("fetch.lanes", fetch.lanes(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(check("fetch.lane_queue", fetch.lane_queue(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(
      check("fetch.outstanding_per_channel", fetch.outstanding_per_channel(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(check("fetch.crossbar_cycles", fetch.crossbar_cycles(), 0, kMany));
  const v1::FactEnergy& energy = spec.energy();
  THRESHER_RETURN_IF_ERROR(check("energy.scale", energy.scale(), 0, 1e3));
  THRESHER_RETURN_IF_ERROR(check("energy.multiply", energy.multiply(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("energy.multiply_low", energy.multiply_low(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("energy.add", energy.add(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("energy.predict_add", energy.predict_add(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("energy.comparison", energy.comparison(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("energy.softmax_element", energy.softmax_element(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("energy.norm_element", energy.norm_element(), 0, 1e9));
  return check("energy.sram_byte", energy.sram_byte(), 0, 1e9);
}

absl::Status CheckFactRecord(const LayerRecord& record, const v1::FactSpec& spec) {
  const LayerShape& shape = record.shape;
  THRESHER_RETURN_IF_ERROR(InRange("shape.heads", shape.heads, 1, kMostHeads));
  THRESHER_RETURN_IF_ERROR(InRange("shape.kv_heads", shape.kv_heads, 1, shape.heads));
  THRESHER_RETURN_IF_ERROR(InRange("shape.head_dim", shape.head_dim, 1, kMostWidth));
  THRESHER_RETURN_IF_ERROR(InRange("shape.hidden_size", shape.hidden_size, 1, kMostWidth));
  THRESHER_RETURN_IF_ERROR(InRange("shape.ffn_size", shape.ffn_size, 1, kMostWidth));
  THRESHER_RETURN_IF_ERROR(InRange("shape.ffn_matrices", shape.ffn_matrices, 1, 3));
  if (shape.heads % shape.kv_heads != 0) {
    return InvalidArgument("shape.kv_heads: {} does not divide {} heads", shape.kv_heads,
                           shape.heads);
  }
  const int64_t weights = 3 * int64_t{shape.hidden_size} * shape.head_dim * spec.element_bits();
  if (weights > spec.weight_sram_bytes() / 2 * 8) {
    return InvalidArgument(
        "shape.hidden_size: {}: W_Q, W_K and W_V of a head, {} x {} of {} bits each, do not fit "
        "into "
        "half of fact.weight_sram_bytes ({})",
        shape.hidden_size, shape.hidden_size, shape.head_dim, spec.element_bits(),
        spec.weight_sram_bytes());
  }
  for (size_t i = 0; i < record.sequences.size(); ++i) {
    THRESHER_RETURN_IF_ERROR(
        Annotate(CheckSequence(record.sequences[i], shape, spec), fmt::format("sequence {}", i)));
  }
  return absl::OkStatus();
}

}  // namespace thresher
