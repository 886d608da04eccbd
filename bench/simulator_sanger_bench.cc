// Sanger simulated: attention of a layer of BERT-base of 512 tokens at the densities that the paper
// keeps without loss, beside what its authors' two scripts reckon of the same density and load
// balance, and beside the published 2285 GOPS. Masks are drawn key by key; the dense-equivalent
// operations are those of the same layer without pruning.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>

#include "backend/device/simulator/accelerator.h"
#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/shapes.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int32_t kTokens = 512;

struct Layer {
  /// 0: dense.
  explicit Layer(double density) : record(DenseRecordOf(*ParseShape("bert-base"), kTokens, 1)) {
    if (density == 0) return;
    mask = CandidateMask(record.shape.heads, kTokens, kTokens);
    record.sequences[0].candidates = &mask;
    std::mt19937 random(1);
    std::bernoulli_distribution keep(density);
    for (HeadRecord& head : record.sequences[0].heads) {
      head.scores = 0;
      for (int32_t q = 0; q < kTokens; ++q) {
        for (int32_t k = 0; k < kTokens; ++k) {
          if (!keep(random)) continue;
          mask.set(head.head, q, k);
          ++head.scores;
        }
      }
      head.values = head.scores;
    }
  }
  LayerRecord record;
  CandidateMask mask;
};

void Run(benchmark::State& state, double density, bool turns) {
  v1::Preset preset = *FindPreset("sanger");
  v1::SangerSpec& spec = *preset.mutable_sanger();
  if (!turns) {
    spec.set_skew_cycles(0);
    spec.set_exponent_cycles(0);
    spec.set_sum_cycles(0);
  }
  const auto accelerator = CreateAccelerator(preset);
  if (!accelerator.ok()) {
    state.SkipWithError(Message(accelerator.status()).c_str());
    return;
  }
  const Layer layer(density);
  v1::Simulation total;
  for (auto _ : state) {
    (*accelerator)->Reset();
    const auto charge = (*accelerator)->Run(layer.record, {.attention_only = true});
    if (!charge.ok()) {
      state.SkipWithError(Message(charge.status()).c_str());
      return;
    }
    total = charge->total;
  }
  const auto& busy = total.busy_cycles();
  const auto cycles = static_cast<double>(total.cycles());
  const double balance = busy.at("array.elements") / busy.at("array.rows");
  const double kept = total.operations() / total.operations_dense();
  // The first script: all elements that hold a score work in each cycle. The second: of each tile
  // of 64 sub-rows and 64 keys of all heads, Q.K in hidden size + 64 cycles and P.V in sub-rows
  // + 64.
  const double sub_rows = kept / balance / 0.25 * kTokens;
  const double hidden = layer.record.shape.hidden_size;
  state.counters["script 1 cycles"] = total.operations_dense() * kept / balance / 2048;
  state.counters["script 2 cycles"] =
      (hidden + 64 + sub_rows + 64) * (kTokens / 64.0) * (sub_rows / 64);
  state.counters["simulated cycles"] = cycles;
  state.counters["simulated us"] = total.seconds() * 1e6;
  state.counters["density"] = kept;
  state.counters["load balance"] = balance;
  state.counters["elements at work"] = busy.at("array.elements") / cycles;
  state.counters["array busy"] = busy.at("array") / cycles;
  state.counters["GOPS"] = total.operations() / total.seconds() * 1e-9;
  state.counters["dense-equivalent GOPS"] = total.operations_dense() / total.seconds() * 1e-9;
  state.counters["published GOPS"] = 2285;
  state.counters["W"] = total.energy_joules() / total.seconds();
  state.counters["W without DRAM"] =
      (total.energy_joules() - total.energy_by_part().at("dram")) / total.seconds();
}

BENCHMARK_CAPTURE(Run, Dense, 0, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Run, Keeps27, 0.27, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Run, Keeps15, 0.15, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Run, Keeps8, 0.08, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Run, DenseWithoutTurns, 0, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Run, Keeps27WithoutTurns, 0.27, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Run, Keeps15WithoutTurns, 0.15, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Run, Keeps8WithoutTurns, 0.08, false)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace thresher
