// How long it takes to price the FuseMax study (four networks, 1K to 1M tokens, a batch of 64) on
// each spatial array, and FuseMax's mean speedup over it beside what is published.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/shapes.h"
#include "backend/device/simulator/spatial/spatial.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int32_t kStudyBatch = 64;

std::vector<LayerRecord> Study() {
  std::vector<LayerRecord> records;
  for (const char* shape : {"bert-base", "trxl", "t5-small", "xlm"}) {
    for (int64_t tokens = 1 << 10; tokens <= 1 << 20; tokens *= 4) {
      records.push_back(DenseRecordOf(*ParseShape(shape), tokens, kStudyBatch));
    }
  }
  return records;
}

// The simulated seconds of one layer's attention, of each record.
absl::StatusOr<std::vector<double>> Price(const std::string& preset_name,
                                          const std::vector<LayerRecord>& records) {
  THRESHER_ASSIGN_OR_RETURN(const v1::Preset preset, FindPreset(preset_name));
  THRESHER_ASSIGN_OR_RETURN(const auto accelerator, CreateSpatial(preset));
  std::vector<double> seconds;
  for (const LayerRecord& record : records) {
    THRESHER_ASSIGN_OR_RETURN(const LayerCharge charge,
                              accelerator->Run(record, {.attention_only = true}));
    seconds.push_back(charge.total.seconds());
  }
  return seconds;
}

// `published`: FuseMax's mean speedup over the preset; 0: there is none.
void PriceStudy(benchmark::State& state, const std::string& preset, double published) {
  const std::vector<LayerRecord> records = Study();
  const auto fusemax = Price("fusemax-cloud", records);
  double speedup = 0;
  for (auto _ : state) {
    const auto seconds = Price(preset, records);
    if (!seconds.ok() || !fusemax.ok()) {
      state.SkipWithError(Message(seconds.ok() ? fusemax.status() : seconds.status()).c_str());
      return;
    }
    speedup = 0;
    for (size_t i = 0; i < records.size(); ++i) {
      speedup += (*seconds)[i] / (*fusemax)[i] / static_cast<double>(records.size());
    }
  }
  state.counters["speedup of FuseMax"] = speedup;
  if (published > 0) state.counters["limit speedup of FuseMax"] = published;
}
BENCHMARK_CAPTURE(PriceStudy, fusemax_cloud, "fusemax-cloud", 0)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(PriceStudy, fusemax_architecture, "fusemax-architecture", 0)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(PriceStudy, fusemax_cascade, "fusemax-cascade", 0)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(PriceStudy, flat_cloud, "flat-cloud", 6.7)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(PriceStudy, unfused, "unfused", 10)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(PriceStudy, flat_edge, "flat-edge", 0)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace thresher
