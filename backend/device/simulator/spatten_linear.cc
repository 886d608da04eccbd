#include "backend/device/simulator/spatten_linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "backend/device/simulator/spatten_geometry.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr uint64_t kWeights = uint64_t{4} << 40;
constexpr uint64_t kActivations = uint64_t{5} << 40;
constexpr uint64_t kResults = uint64_t{6} << 40;
constexpr uint64_t kOutputCookie = ~uint64_t{0};
constexpr std::string_view kWorks;
constexpr std::string_view kWaitsForWeights = "waits for weights";
constexpr std::string_view kWaitsForMemory = "waits for memory";

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
  return {{"output", rows, attention, hidden, rows * attention * hidden},
          {"feed-forward 1", rows, hidden, up, rows * hidden * up},
          {"feed-forward 2", rows, ffn, hidden, rows * ffn * hidden}};
}

FetchPart SpAttenLinear::Bytes(uint64_t address, int64_t bytes, bool write) const {
  const auto burst = static_cast<uint64_t>(network_->burst_bytes());
  FetchPart part;
  part.base = address / burst * burst;
  part.stride = burst;
  part.count = DivideUp(bytes, static_cast<int64_t>(burst));
  part.bursts = 1;
  part.write = write;
  return part;
}

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

  const auto chunk_begin = [&](int64_t i) { return weight_bytes * i / tile_chunks; };
  const auto submit = [&](int64_t chunk) {
    const int64_t tile = chunk / tile_chunks, i = chunk % tile_chunks;
    FetchJob job;
    job.cookie = static_cast<uint64_t>(chunk);
    if (i == 0) {
      const int64_t rows = std::min(tile_rows, product.rows - tile * tile_rows);
      job.parts.push_back(Bytes(kActivations + tile * tile_rows * product.in * bits / 8,
                                DivideUp(rows * product.in * bits, 8), false));
    }
    job.parts.push_back(
        Bytes(weights + chunk_begin(i), chunk_begin(i + 1) - chunk_begin(i), false));
    network_->Submit(FetchClass::kKey, std::move(job));
  };
  const int64_t output_bytes = DivideUp(product.rows * product.out * bits, 8);
  const auto write = [&](int64_t chunk) {
    FetchJob job;
    job.cookie = kOutputCookie;
    const int64_t from = output_bytes * chunk / chunks, to = output_bytes * (chunk + 1) / chunks;
    job.parts.push_back(Bytes(kResults + from, to - from, true));
    network_->Submit(FetchClass::kOutput, std::move(job));
  };

  // A chunk comes while the one before is multiplied: two of them fit.
  std::array<int64_t, 2> came = {FetchNetwork::kNever, FetchNetwork::kNever};
  int64_t now = begin, asked = 0, done = 0, written = 0, array_free = begin;
  bool working = false;
  std::vector<FetchNetwork::Completion> completions;
  unit_.Start(begin);
  while (written < chunks) {
    if (working && array_free <= now) {
      working = false;
      write(done++);
    }
    while (asked < std::min(chunks, done + 2)) submit(asked++);
    if (!working && done < chunks && came[done % 2] <= now) {
      came[done % 2] = FetchNetwork::kNever;
      const int64_t part =
          product.products * (done + 1) / chunks - product.products * done / chunks;
      array_free = now + std::max<int64_t>(1, DivideUp(part, 2 * int64_t{spec_.multipliers()}));
      working = true;
    }
    unit_.Set(now, working ? kWorks : done < chunks ? kWaitsForWeights : kWaitsForMemory);
    const int64_t tick = network_->NextTick(now);
    int64_t next = std::min(tick, working ? array_free : FetchNetwork::kNever);
    if (!working && done < chunks) next = std::min(next, came[done % 2]);
    if (next == FetchNetwork::kNever) {
      return Internal("spatten: layer {}: {}: nothing moves, and weights are left", layer,
                      product.name);
    }
    now = next;
    completions.clear();
    if (now == tick) network_->Tick(now, &completions);
    for (const auto& completion : completions) {
      if (completion.cookie == kOutputCookie) {
        ++written;
      } else {
        came[completion.cookie % 2] = completion.cycle;
      }
    }
  }
  unit_.Stop(now);
  if (timeline_ != nullptr) {
    const double cycle_ps = 1e12 / spec_.clock_hz();
    timeline_->Add("linear", fmt::format("layer {} {}", layer, product.name),
                   std::llround(begin * cycle_ps), std::llround(now * cycle_ps));
  }
  return now;
}

}  // namespace thresher
