#include "backend/device/simulator/spatten/linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/device/simulator/spatten/geometry.h"
#include "backend/device/simulator/units/chunk_stream.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr uint64_t kWeights = uint64_t{4} << 40;
constexpr uint64_t kActivations = uint64_t{5} << 40;
constexpr uint64_t kResults = uint64_t{6} << 40;

struct Totals {
  int64_t rows = 0;
  int64_t query_rows = 0;  // Of all heads together.
  int64_t key_rows = 0;
  int64_t value_rows = 0;
  int64_t heads = 0;  // That some sequence runs.
};

Totals TotalsOf(const LayerRecord& record) {
  Totals totals;
  for (const SequenceRecord& sequence : record.sequences) {
    totals.rows += sequence.rows;
    totals.query_rows += sequence.query_rows;
    totals.key_rows += sequence.key_rows;
    totals.value_rows += sequence.value_rows;
    totals.heads = std::max(totals.heads, static_cast<int64_t>(sequence.heads.size()));
  }
  return totals;
}

}  // namespace

std::vector<LinearProduct> ProductsBefore(const LayerRecord& record) {
  const LayerShape& shape = record.shape;
  const Totals totals = TotalsOf(record);
  const int64_t dim = shape.head_dim, hidden = shape.hidden_size;
  const int64_t kv_heads = DivideUp(totals.heads * shape.kv_heads, shape.heads);
  return {{"Q", totals.rows, hidden, totals.heads * dim, totals.query_rows * dim * hidden},
          {"K", totals.rows, hidden, kv_heads * dim, totals.key_rows * dim * hidden},
          {"V", totals.rows, hidden, kv_heads * dim, totals.value_rows * dim * hidden}};
}

std::vector<LinearProduct> ProductsAfter(const LayerRecord& record) {
  const LayerShape& shape = record.shape;
  const Totals totals = TotalsOf(record);
  const int64_t attention = totals.heads * shape.head_dim;
  const int64_t hidden = shape.hidden_size, ffn = shape.ffn_size;
  const int64_t up = ffn * (shape.ffn_matrices - 1);
  const int64_t rows = totals.rows;
  std::vector<LinearProduct> products = {
      {"output", rows, attention, hidden, rows * attention * hidden},
      {"feed-forward 1", rows, hidden, up, rows * hidden * up},
      {"feed-forward 2", rows, ffn, hidden, rows * ffn * hidden}};
  products[0].normalized = products[2].normalized = true;
  products[1].activated = true;
  return products;
}

SpAttenLinear::SpAttenLinear(const v1::SpAttenSpec& spec, FetchNetwork* network, Timeline* timeline)
    : spec_(spec),
      network_(network),
      timeline_(timeline),
      norms_({.lanes = spec.softmax_lanes(),
              .passes = spec.norm_passes(),
              .bits = spec.linear_bits(),
              .sram_bytes = spec.value_sram_bytes(),
              .clock_hz = spec.clock_hz(),
              .rows_at = kResults,
              .residual_at = kActivations},
             network, timeline) {}

absl::StatusOr<int64_t> SpAttenLinear::Run(const LinearProduct& product, int32_t layer,
                                           int64_t begin) {
  if (product.rows <= 0 || product.in <= 0 || product.out <= 0) return begin;
  const int64_t bits = spec_.linear_bits();
  const int64_t tile_rows =
      std::clamp<int64_t>(spec_.value_sram_bytes() * 8 / (product.in * bits), 1, product.rows);
  const int64_t tiles = DivideUp(product.rows, tile_rows);
  const int64_t weight_bytes = DivideUp(product.in * product.out * bits, 8);
  const int64_t tile_chunks = DivideUp(weight_bytes, spec_.key_sram_bytes() / 2);
  const int64_t chunks = tiles * tile_chunks;
  products_ += product.products;
  plain_bits_ +=
      (product.rows * (product.in + product.out) + tiles * product.in * product.out) * bits;
  // Weights and activations are written once each time they come; a row of weights is read once for
  // each row of activations, which stand still meanwhile.
  sram_bits_ += (product.rows * product.in + tiles * product.in * product.out) * bits +
                product.products * bits;
  const auto weights = kWeights + static_cast<uint64_t>(layer) * weight_bytes;

  const int32_t burst = network_->burst_bytes();
  const auto reads = [&](int64_t chunk) {
    const int64_t tile = chunk / tile_chunks, i = chunk % tile_chunks;
    std::vector<FetchPart> parts;
    if (i == 0) {
      const int64_t rows = std::min(tile_rows, product.rows - tile * tile_rows);
      parts.push_back(BytesAt(kActivations + tile * tile_rows * product.in * bits / 8,
                              DivideUp(rows * product.in * bits, 8), false, burst));
    }
    const auto [from, to] = PartOf(weight_bytes, i, tile_chunks);
    parts.push_back(BytesAt(weights + from, to - from, false, burst));
    return parts;
  };
  const int64_t output_bytes = DivideUp(product.rows * product.out * bits, 8);
  const auto writes = [&](int64_t chunk) {
    const auto [from, to] = PartOf(output_bytes, chunk, chunks);
    return std::vector{BytesAt(kResults + from, to - from, true, burst)};
  };
  const int64_t activation =
      product.activated ? norms_.Activate(product.rows * product.out) : int64_t{0};
  const auto cycles = [&](int64_t chunk) {
    const auto [from, to] = PartOf(product.products, chunk, chunks);
    const auto [activation_from, activation_to] = PartOf(activation, chunk, chunks);
    return std::max(DivideUp(to - from, 2 * int64_t{spec_.multipliers()}),
                    activation_to - activation_from);
  };
  const auto end =
      RunChunkStream({.chunks = chunks, .reads = reads, .writes = writes, .cycles = cycles}, begin,
                     network_, &unit_);
  if (!end.ok()) {
    return Annotate(end.status(), fmt::format("spatten: layer {}: {}", layer, product.name));
  }
  if (timeline_ != nullptr) {
    const double cycle_ps = 1e12 / spec_.clock_hz();
    timeline_->Add("linear", fmt::format("layer {} {}", layer, product.name),
                   std::llround(begin * cycle_ps), std::llround(*end * cycle_ps));
  }
  if (!product.normalized) return *end;
  return norms_.Run(product.rows, product.out, layer, *end, &unit_);
}

}  // namespace thresher
