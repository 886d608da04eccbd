#include "backend/device/simulator/units/row_norms.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "backend/device/simulator/units/chunk_stream.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr std::string_view kWaitsForRows = "waits for rows";
constexpr std::string_view kWaitsForNorms = "waits for norms";

int64_t Up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

absl::StatusOr<int64_t> RowNorms::Run(int64_t rows, int64_t width, int32_t layer, int64_t begin,
                                      UnitClock* waiting) {
  if (options_.passes == 0 || rows <= 0 || width <= 0) return begin;
  const int64_t elements = rows * width;
  const int64_t row_bits = width * options_.bits;
  const int64_t chunk_rows =
      std::clamp<int64_t>(options_.sram_bytes * 8 / 2 / (2 * row_bits), 1, rows);
  const int64_t chunks = Up(rows, chunk_rows);
  elements_ += elements;
  plain_bits_ += 3 * rows * row_bits;
  // Both operands are written as they come, the first pass reads both and leaves their sum, the
  // others read it.
  sram_bits_ += (4 + options_.passes) * rows * row_bits;

  const int64_t bytes = Up(rows * row_bits, 8);
  const int32_t burst = network_->burst_bytes();
  const auto reads = [&](int64_t chunk) {
    const auto [from, to] = PartOf(bytes, chunk, chunks);
    return std::vector{BytesAt(options_.rows_at + from, to - from, false, burst),
                       BytesAt(options_.residual_at + from, to - from, false, burst)};
  };
  const auto writes = [&](int64_t chunk) {
    const auto [from, to] = PartOf(bytes, chunk, chunks);
    return std::vector{BytesAt(options_.residual_at + from, to - from, true, burst)};
  };
  const auto cycles = [&](int64_t chunk) {
    const auto [from, to] = PartOf(elements, chunk, chunks);
    return Up((to - from) * options_.passes, options_.lanes);
  };
  const auto end = RunChunkStream({.chunks = chunks,
                                   .reads = reads,
                                   .writes = writes,
                                   .cycles = cycles,
                                   .waits = kWaitsForRows},
                                  begin, network_, &unit_);
  if (!end.ok()) return Annotate(end.status(), fmt::format("layer {}: normalization", layer));
  waiting->Start(begin);
  waiting->Set(begin, kWaitsForNorms);
  waiting->Stop(*end);
  if (timeline_ != nullptr) {
    const double cycle_ps = 1e12 / options_.clock_hz;
    timeline_->Add("norm", fmt::format("layer {} normalization", layer),
                   std::llround(static_cast<double>(begin) * cycle_ps),
                   std::llround(static_cast<double>(*end) * cycle_ps));
  }
  return *end;
}

int64_t RowNorms::Activate(int64_t elements) {
  if (options_.passes == 0) return 0;
  activated_ += elements;
  return Up(elements, options_.lanes);
}

}  // namespace thresher
