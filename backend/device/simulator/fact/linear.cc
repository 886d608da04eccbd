#include "backend/device/simulator/fact/linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/device/simulator/units/chunk_stream.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr uint64_t kWeights = uint64_t{5} << 40;
constexpr uint64_t kActivations = uint64_t{6} << 40;
constexpr uint64_t kResults = uint64_t{7} << 40;

int64_t Up(int64_t a, int64_t b) { return FactGeometry::Up(a, b); }

/// Passes of `count` rows through the array. Which rows are of low precision nobody recorded: they
/// are taken to lie in all banks alike.
int64_t Beats(int64_t count, const v1::FactSpec& spec) {
  const int64_t banks = spec.diagonal_storage() ? spec.activation_banks() : 1;
  return std::max(Up(count, spec.array_rows()), Up(count, banks));
}

}  // namespace

std::vector<FactProduct> FactProducts(const LayerRecord& record, const v1::FactSpec& spec) {
  const LayerShape& shape = record.shape;
  int64_t rows = 0, heads = 0;
  std::vector<std::pair<int32_t, int64_t>> low;  // Width, count.
  for (const SequenceRecord& sequence : record.sequences) {
    rows += sequence.rows;
    heads = std::max(heads, static_cast<int64_t>(sequence.heads.size()));
    if (sequence.ffn_low_rows > 0) low.emplace_back(sequence.ffn_low_bits, sequence.ffn_low_rows);
  }
  std::ranges::sort(low);
  const auto part = [&](int32_t bits, int64_t count) {
    return FactProduct::Rows{.bits = bits, .count = count, .beats = Beats(count, spec)};
  };
  int64_t full = rows;
  std::vector<FactProduct::Rows> mixed;
  for (size_t i = 0; i < low.size();) {
    int64_t count = 0;
    const int32_t bits = low[i].first;
    for (; i < low.size() && low[i].first == bits; ++i) count += low[i].second;
    mixed.push_back(part(bits, count));
    full -= count;
  }
  if (full > 0) mixed.push_back(part(spec.element_bits(), full));
  const int64_t hidden = shape.hidden_size, ffn = shape.ffn_size;
  std::vector<FactProduct> products = {
      {"output", heads * shape.head_dim, hidden, {part(spec.element_bits(), rows)}},
      {"feed-forward 1", hidden, ffn * (shape.ffn_matrices - 1), mixed},
      {"feed-forward 2", ffn, hidden, mixed}};
  products[0].normalized = products[2].normalized = true;
  products[1].activated = true;
  return products;
}

FactLinear::FactLinear(const v1::FactSpec& spec, FetchNetwork* network, UnitClock* array,
                       Timeline* timeline)
    : spec_(spec),
      geometry_(spec),
      network_(network),
      array_(array),
      timeline_(timeline),
      norms_({.lanes = spec.softmax().lanes(),
              .passes = spec.norm_passes(),
              .bits = spec.element_bits(),
              .sram_bytes = spec.activation_sram_bytes(),
              .clock_hz = spec.clock_hz(),
              .rows_at = kResults,
              .residual_at = kActivations},
             network, timeline) {}

void FactLinear::Count(const FactProduct& product, int64_t tiles) {
  const int64_t weights = product.in * product.out;
  plain_bits_ += tiles * weights * spec_.element_bits();
  sram_bits_ += tiles * weights * spec_.element_bits();  // They are written as they come.
  for (const FactProduct::Rows& rows : product.rows) {
    const bool is_low = rows.bits < spec_.element_bits();
    (is_low ? low_products_ : products_) += rows.count * weights;
    // Rows are read once for each pass of columns, weights once for each pass of rows. Of an input
    // of low precision only the upper bits are fetched; outputs are of full width.
    const int64_t bits = std::min(rows.bits, spec_.element_bits());
    plain_bits_ += rows.count * (product.in * bits + product.out * spec_.element_bits());
    sram_bits_ += rows.count * product.in * bits * Up(product.out, spec_.array_columns()) +
                  rows.beats * weights * spec_.element_bits();
    const int64_t cycles =
        geometry_.GroupCycles(product.in, product.out, geometry_.AtOnce(rows.bits));
    conflict_cycles_ += (rows.beats - Up(rows.count, spec_.array_rows())) * cycles;
  }
}

absl::StatusOr<int64_t> FactLinear::Run(const FactProduct& product, int32_t layer, int64_t begin) {
  const int64_t rows = product.count();
  if (rows <= 0 || product.in <= 0 || product.out <= 0) return begin;
  const int64_t bits = spec_.element_bits();
  const int64_t tile_rows =
      std::clamp<int64_t>(spec_.activation_sram_bytes() * 8 / (product.in * bits), 1, rows);
  const int64_t tiles = Up(rows, tile_rows);
  const int64_t weight_bytes = Up(product.in * product.out * bits, 8);
  const int64_t tile_chunks = Up(weight_bytes, spec_.weight_sram_bytes() / 2);
  const int64_t chunks = tiles * tile_chunks;
  Count(product, tiles);

  int64_t cycles = 0, input_bits = 0;
  for (const FactProduct::Rows& part : product.rows) {
    cycles +=
        part.beats * geometry_.GroupCycles(product.in, product.out, geometry_.AtOnce(part.bits));
    input_bits += part.count * product.in * std::min<int64_t>(part.bits, bits);
  }
  if (product.activated) cycles = std::max(cycles, norms_.Activate(rows * product.out));
  const int64_t input_bytes = Up(input_bits, 8);
  const int64_t output_bytes = Up(rows * product.out * bits, 8);
  const int32_t burst = network_->burst_bytes();
  const auto reads = [&](int64_t chunk) {
    std::vector<FetchPart> parts;
    if (chunk % tile_chunks == 0) {
      const auto [from, to] = PartOf(input_bytes, chunk / tile_chunks, tiles);
      parts.push_back(BytesAt(kActivations + from, to - from, false, burst));
    }
    const auto [from, to] = PartOf(weight_bytes, chunk % tile_chunks, tile_chunks);
    const uint64_t weights = kWeights + static_cast<uint64_t>(layer) * weight_bytes;
    parts.push_back(BytesAt(weights + from, to - from, false, burst));
    return parts;
  };
  const auto writes = [&](int64_t chunk) {
    const auto [from, to] = PartOf(output_bytes, chunk, chunks);
    return std::vector{BytesAt(kResults + from, to - from, true, burst)};
  };
  const auto chunk_cycles = [&](int64_t chunk) {
    const auto [from, to] = PartOf(cycles, chunk, chunks);
    return to - from;
  };
  const auto end =
      RunChunkStream({.chunks = chunks, .reads = reads, .writes = writes, .cycles = chunk_cycles},
                     begin, network_, array_);
  if (!end.ok()) {
    return Annotate(end.status(), fmt::format("fact: layer {}: {}", layer, product.name));
  }
  if (timeline_ != nullptr) {
    const double cycle_ps = 1e12 / spec_.clock_hz();
    timeline_->Add("linear", fmt::format("layer {} {}", layer, product.name),
                   std::llround(static_cast<double>(begin) * cycle_ps),
                   std::llround(static_cast<double>(*end) * cycle_ps));
  }
  if (!product.normalized) return *end;
  return norms_.Run(rows, product.out, layer, *end, array_);
}

}  // namespace thresher
