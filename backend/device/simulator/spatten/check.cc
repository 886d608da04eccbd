#include "backend/device/simulator/spatten/check.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "backend/device/simulator/spatten/geometry.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

// Of a layer: some minutes of simulation.
constexpr int64_t kMostRows = int64_t{1} << 27;
constexpr double kMostWeightBytes = 1e11;
// Far below what sums of products could not hold.
constexpr double kMostProducts = 1e16;
constexpr int64_t kMostTokens = int64_t{1} << 24;
constexpr int32_t kMostHeads = 1 << 16;
constexpr int32_t kMostWidth = 1 << 22;
constexpr int32_t kMostBits = 32;

absl::Status CheckRange(const char* field, double value, double least, double most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return InvalidArgument("spatten.{}: {} must lie within {} and {}", field, value, least, most);
}

absl::Status CheckShape(const LayerRecord& record) {
  const LayerShape& shape = record.shape;
  const auto check = [](const char* field, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return absl::OkStatus();
    return InvalidArgument("shape.{}: {} must lie within {} and {}", field, value, least, most);
  };
  THRESHER_RETURN_IF_ERROR(check("layers", shape.layers, 1, kMostHeads));
  THRESHER_RETURN_IF_ERROR(check("heads", shape.heads, 1, kMostHeads));
  THRESHER_RETURN_IF_ERROR(check("kv_heads", shape.kv_heads, 1, shape.heads));
  THRESHER_RETURN_IF_ERROR(check("head_dim", shape.head_dim, 1, kMostHeads));
  THRESHER_RETURN_IF_ERROR(check("hidden_size", shape.hidden_size, 0, kMostWidth));
  THRESHER_RETURN_IF_ERROR(check("ffn_size", shape.ffn_size, 0, kMostWidth));
  THRESHER_RETURN_IF_ERROR(check("ffn_matrices", shape.ffn_matrices, 1, 3));
  if (shape.heads % shape.kv_heads != 0) {
    return InvalidArgument("shape.kv_heads: {} does not divide {} heads", shape.kv_heads,
                           shape.heads);
  }
  if (record.layer < 0 || record.layer >= shape.layers) {
    return InvalidArgument("layer: {} of {}", record.layer, shape.layers);
  }
  return absl::OkStatus();
}

absl::Status CheckHead(const HeadRecord& head, const SequenceRecord& sequence) {
  const auto refuse = [&](const char* field, int64_t value, const std::string& why) {
    return InvalidArgument("head {}: {}: {} {}", head.head, field, value, why);
  };
  if (head.queries < 0 || head.queries > kMostTokens) {
    return refuse("queries", head.queries, fmt::format("must lie within 0 and {}", kMostTokens));
  }
  if (head.keys < 0 || head.keys > kMostTokens) {
    return refuse("keys", head.keys, fmt::format("must lie within 0 and {}", kMostTokens));
  }
  if (head.scores < 0 || head.scores > head.queries * head.keys) {
    return refuse("scores", head.scores,
                  fmt::format("of {} queries and {} keys", head.queries, head.keys));
  }
  if (head.values < 0 || head.values > head.scores) {
    return refuse("values", head.values, fmt::format("of {} scores", head.scores));
  }
  if (head.refetched < 0 || head.refetched > head.queries) {
    return refuse("refetched", head.refetched, fmt::format("of {} queries", head.queries));
  }
  if (head.refetched > 0 && sequence.bits.key_refetch == 0) {
    return refuse("refetched", head.refetched, "where bits.key_refetch is 0");
  }
  if (!sequence.positions.empty() && head.keys > static_cast<int64_t>(sequence.positions.size())) {
    return refuse("keys", head.keys, fmt::format("at {} positions", sequence.positions.size()));
  }
  return absl::OkStatus();
}

absl::Status CheckSequence(const SequenceRecord& sequence, const LayerShape& shape) {
  const auto check = [](const char* field, int64_t value, int64_t most) {
    if (value >= 0 && value <= most) return absl::OkStatus();
    return InvalidArgument("{}: {} must lie within 0 and {}", field, value, most);
  };
  const int64_t most_rows = static_cast<int64_t>(sequence.rows) * shape.heads;
  THRESHER_RETURN_IF_ERROR(check("rows", sequence.rows, kMostTokens));
  THRESHER_RETURN_IF_ERROR(check("keys", sequence.keys, kMostTokens));
  THRESHER_RETURN_IF_ERROR(check("dense_rows", sequence.dense_rows, kMostTokens));
  THRESHER_RETURN_IF_ERROR(check("dense_keys", sequence.dense_keys, kMostTokens));
  THRESHER_RETURN_IF_ERROR(check("query_rows", sequence.query_rows, most_rows));
  THRESHER_RETURN_IF_ERROR(check("key_rows", sequence.key_rows, most_rows));
  THRESHER_RETURN_IF_ERROR(check("value_rows", sequence.value_rows, most_rows));
  THRESHER_RETURN_IF_ERROR(check("bits.query", sequence.bits.query, kMostBits));
  THRESHER_RETURN_IF_ERROR(check("bits.key", sequence.bits.key, kMostBits));
  THRESHER_RETURN_IF_ERROR(check("bits.key_refetch", sequence.bits.key_refetch, kMostBits));
  THRESHER_RETURN_IF_ERROR(check("bits.value", sequence.bits.value, kMostBits));
  THRESHER_RETURN_IF_ERROR(check("top_k_from", sequence.top_k_from, kMostTokens));
  THRESHER_RETURN_IF_ERROR(check("top_k", sequence.top_k, sequence.top_k_from));
  THRESHER_RETURN_IF_ERROR(check("head_top_k_from", sequence.head_top_k_from, shape.heads));
  THRESHER_RETURN_IF_ERROR(check("head_top_k", sequence.head_top_k, sequence.head_top_k_from));
  for (size_t i = 0; i < sequence.positions.size(); ++i) {
    if (sequence.positions[i] < 0 || sequence.positions[i] > kMostTokens ||
        (i > 0 && sequence.positions[i] <= sequence.positions[i - 1])) {
      return InvalidArgument("positions: {} at place {}: they must ascend from 0 to {}",
                             sequence.positions[i], i, kMostTokens);
    }
  }
  int32_t last = -1;
  for (const HeadRecord& head : sequence.heads) {
    if (head.head <= last || head.head >= shape.heads) {
      return InvalidArgument("head {}: heads must ascend within {}", head.head, shape.heads);
    }
    last = head.head;
    THRESHER_RETURN_IF_ERROR(CheckHead(head, sequence));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSpAttenSpec(const v1::SpAttenSpec& spec) {
  constexpr double kMany = 1 << 20;
  constexpr double kMostSram = 1 << 30;
  const auto check = CheckRange;
  THRESHER_RETURN_IF_ERROR(check("clock_hz", spec.clock_hz(), 1e6, 1e12));
  THRESHER_RETURN_IF_ERROR(check("multipliers", spec.multipliers(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(check("element_bits", spec.element_bits(), 1, kMostBits));
  THRESHER_RETURN_IF_ERROR(check("unquantized_bits", spec.unquantized_bits(), 1, kMostBits));
  THRESHER_RETURN_IF_ERROR(check("softmax_lanes", spec.softmax_lanes(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(check("context", spec.context(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(check("softmax_fifo", spec.softmax_fifo(), spec.context(), 1e9));
  THRESHER_RETURN_IF_ERROR(
      check("key_sram_bytes", static_cast<double>(spec.key_sram_bytes()), 1, kMostSram));
  THRESHER_RETURN_IF_ERROR(
      check("value_sram_bytes", static_cast<double>(spec.value_sram_bytes()), 1, kMostSram));
  THRESHER_RETURN_IF_ERROR(check("row_queue", spec.row_queue(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(check("linear_bits", spec.linear_bits(), 1, kMostBits));
  THRESHER_RETURN_IF_ERROR(check("norm_passes", spec.norm_passes(), 0, 64));

  const v1::SpAttenFetch& fetch = spec.fetch();
  THRESHER_RETURN_IF_ERROR(check("fetch.planes", fetch.planes_size(), 1, 16));
  for (const auto& plane : fetch.planes()) {
    THRESHER_RETURN_IF_ERROR(check("fetch.planes.bits", plane.bits(), 1, kMostBits));
    THRESHER_RETURN_IF_ERROR(check("fetch.planes.fused_heads", plane.fused_heads(), 1, 64));
  }
  THRESHER_RETURN_IF_ERROR(check("fetch.lanes", fetch.lanes(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(check("fetch.lane_queue", fetch.lane_queue(), 1, 4096));
  THRESHER_RETURN_IF_ERROR(
      check("fetch.outstanding_per_channel", fetch.outstanding_per_channel(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(check("fetch.crossbar_cycles", fetch.crossbar_cycles(), 0, kMany));

  const v1::SpAttenLatency& latency = spec.latency();
  THRESHER_RETURN_IF_ERROR(check("latency.qk", latency.qk(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(check("latency.exponent", latency.exponent(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(check("latency.accumulate", latency.accumulate(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(check("latency.divide", latency.divide(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(check("latency.decision", latency.decision(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(check("latency.top_k_skip", latency.top_k_skip(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(check("latency.pv", latency.pv(), 0, kMany));
  THRESHER_RETURN_IF_ERROR(check("top_k.parallelism", spec.top_k().parallelism(), 1, kMany));
  THRESHER_RETURN_IF_ERROR(check("top_k.round_cycles", spec.top_k().round_cycles(), 0, kMany));

  const v1::SpAttenEnergy& energy = spec.energy();
  THRESHER_RETURN_IF_ERROR(check("energy.multiply", energy.multiply(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("energy.add", energy.add(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("energy.softmax_element", energy.softmax_element(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("energy.comparison", energy.comparison(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("energy.norm_element", energy.norm_element(), 0, 1e9));
  THRESHER_RETURN_IF_ERROR(check("energy.accumulate", energy.accumulate(), 0, 1e9));
  return check("energy.sram_byte", energy.sram_byte(), 0, 1e9);
}

absl::Status CheckSpAttenRecord(const LayerRecord& record, const v1::SpAttenSpec& spec) {
  THRESHER_RETURN_IF_ERROR(CheckShape(record));
  const int32_t segment = SegmentKeys(record.shape.head_dim, spec);
  if (segment < 1) {
    return InvalidArgument(
        "shape.head_dim: {}: a key of {} elements does not fit into a part of the SRAM",
        record.shape.head_dim, record.shape.head_dim);
  }
  double rows = 0;
  for (size_t i = 0; i < record.sequences.size(); ++i) {
    const SequenceRecord& sequence = record.sequences[i];
    THRESHER_RETURN_IF_ERROR(
        Annotate(CheckSequence(sequence, record.shape), fmt::format("sequence {}", i)));
    for (const HeadRecord& head : sequence.heads) {
      rows +=
          static_cast<double>(head.queries) * std::ceil(static_cast<double>(head.keys) / segment);
    }
  }
  if (rows > static_cast<double>(kMostRows)) {
    return InvalidArgument(
        "{:.0f} softmax rows, of segments of {} keys, are more than the {} that are simulated in a "
        "layer: use fewer tokens",
        rows, segment, kMostRows);
  }
  return absl::OkStatus();
}

absl::Status CheckSpAttenLinear(const LayerRecord& record, const v1::SpAttenSpec& spec) {
  const LayerShape& shape = record.shape;
  double rows = 0;
  for (const SequenceRecord& sequence : record.sequences) rows += sequence.rows;
  const double attention = static_cast<double>(shape.heads) * shape.head_dim;
  const double hidden = shape.hidden_size, ffn = shape.ffn_size;
  const double weights = 4 * attention * hidden + shape.ffn_matrices * hidden * ffn;
  const double row_bytes = std::max({attention, hidden, ffn}) * spec.linear_bits() / 8;
  const double times = 1 + rows * row_bytes / static_cast<double>(spec.value_sram_bytes());
  const double bytes = weights * spec.linear_bits() / 8 * times;
  if (bytes <= kMostWeightBytes && rows * weights <= kMostProducts) return absl::OkStatus();
  return InvalidArgument(
      "linear layers stream {:.0f} GB of weights for {:.0f} rows, more than the {:.0f} GB that are "
      "simulated in a layer: use fewer tokens, or charge attention alone",
      bytes / 1e9, rows, kMostWeightBytes / 1e9);
}

}  // namespace thresher
