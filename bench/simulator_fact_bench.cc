// FACT simulated: how long a layer of BERT-base takes the simulator, and what it takes FACT, beside
// the published 928 GOPS. What these count is not published (nor are the array's shape and
// memories), and the sources disagree by two: here operations are those executed, 2 to a
// multiplication, over the time of the whole layer; dense-equivalent operations are those of the
// same layer without pruning.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "backend/device/simulator/accelerator.h"
#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/shapes.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int32_t kTokens = 384;

/// Each query keeps the best `keep` of the keys; half of its choice is common to all queries, as
/// attention sinks are. 0: dense.
struct Layer {
  Layer(double keep, bool low_precision)
      : record(DenseRecordOf(*ParseShape("bert-base"), kTokens, 1)) {
    if (keep == 0) return;
    const int32_t heads = record.shape.heads;
    mask = CandidateMask(heads, kTokens, kTokens);
    std::mt19937 random(1);
    SequenceRecord& sequence = record.sequences[0];
    sequence.candidates = &mask;
    sequence.key_rows = 0;
    for (HeadRecord& head : sequence.heads) {
      const auto keys = static_cast<int32_t>(keep * kTokens);
      head.scores = int64_t{keys} * kTokens;
      head.values = head.scores;
      std::vector<bool> named(kTokens);
      for (int32_t q = 0; q < kTokens; ++q) {
        int32_t count = 0;
        for (; count < keys / 2; ++count)
          mask.set(head.head, q, (count * 37 + head.head) % kTokens);
        while (count < keys) {
          const auto key = static_cast<int32_t>(random() % kTokens);
          // Few tokens are ever chosen by chance.
          if (key % 3 != 0 || mask.test(head.head, q, key)) continue;
          mask.set(head.head, q, key);
          ++count;
        }
        for (int32_t k = 0; k < kTokens; ++k) named[k] = named[k] || mask.test(head.head, q, k);
      }
      head.keys = std::count(named.begin(), named.end(), true);
      sequence.key_rows += head.keys;
    }
    sequence.value_rows = sequence.key_rows;
    sequence.predicted_rows = int64_t{2} * heads * kTokens;
    sequence.predicted_scores = int64_t{heads} * kTokens * kTokens;
    sequence.prediction_bits = 8;
    if (low_precision) {
      sequence.ffn_low_rows = kTokens / 2;
      sequence.ffn_low_bits = 4;
    }
  }
  LayerRecord record;
  CandidateMask mask;
};

void Run(benchmark::State& state, double keep, bool low_precision, bool out_of_order) {
  v1::Preset preset = *FindPreset("fact");
  preset.mutable_fact()->set_out_of_order(out_of_order);
  const auto accelerator = CreateAccelerator(preset);
  if (!accelerator.ok()) {
    state.SkipWithError(Message(accelerator.status()).c_str());
    return;
  }
  const Layer layer(keep, low_precision);
  v1::Simulation total;
  for (auto _ : state) {
    (*accelerator)->Reset();
    const auto charge = (*accelerator)->Run(layer.record, {});
    if (!charge.ok()) {
      state.SkipWithError(Message(charge.status()).c_str());
      return;
    }
    total = charge->total;
  }
  const double cycles = static_cast<double>(total.cycles());
  state.counters["simulated ms"] = total.seconds() * 1e3;
  state.counters["GOPS"] = total.operations() / total.seconds() * 1e-9;
  state.counters["dense-equivalent GOPS"] = total.operations_dense() / total.seconds() * 1e-9;
  state.counters["published GOPS"] = 928;
  state.counters["array busy"] = total.busy_cycles().at("array") / cycles;
  const auto prediction = total.busy_cycles().find("prediction");
  const bool predicts = prediction != total.busy_cycles().end();
  state.counters["prediction busy"] = predicts ? prediction->second / cycles : 0;
  state.counters["mJ"] = total.energy_joules() * 1e3;
}

BENCHMARK_CAPTURE(Run, Dense, 0, false, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Run, Fact, 0.2, true, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Run, FactWithoutMixedPrecision, 0.2, false, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Run, FactInOrder, 0.2, true, false)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace thresher
