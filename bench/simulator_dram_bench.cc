// How fast the modelled HBM2 is simulated, in DRAM commands a second on one core, and what
// bandwidth it delivers beside its peak. Requests keep the queues full, as fetchers of an
// accelerator do.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/device/simulator/dram/dram.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int kBurst = 32;
constexpr int64_t kRequests = 1 << 18;
constexpr int64_t kOutstanding = 64;  // Of a channel: its queue.

v1::DramSpec Spec(int channels) {
  v1::DramSpec spec;
  spec.mutable_hbm2()->set_megabits_per_second(2000);
  spec.mutable_hbm2()->set_channels(channels);
  return spec;
}

/// A cheap hash: the bench measures the memory, not a generator.
uint64_t Scatter(uint64_t i) { return (i * 0x9E3779B97F4A7C15u) >> 16; }

/// Keeps as many under way as the queues hold, `kRequests` in all.
template <typename Next>
void Run(benchmark::State& state, const v1::DramSpec& spec, Next next) {
  absl::StatusOr<std::unique_ptr<Dram>> created = CreateDram(spec);
  if (!created.ok()) {
    state.SkipWithError(Message(created.status()).c_str());
    return;
  }
  Dram& dram = **created;
  std::vector<DramCompletion> completions;
  int64_t commands = 0;
  double bytes_per_second = 0;
  for (auto _ : state) {
    dram.Reset();
    int64_t sent = 0;
    int64_t done = 0;
    int64_t now_ps = 0;
    DramRequest request = next(0);
    const int64_t most = kOutstanding * dram.channels();
    while (done < kRequests) {
      while (sent < std::min(kRequests, done + most) && dram.TrySend(request, now_ps)) {
        request = next(++sent);
      }
      now_ps = dram.NextEvent();
      completions.clear();
      dram.AdvanceTo(now_ps, &completions);
      done += static_cast<int64_t>(completions.size());
    }
    // Rows that close by themselves are no commands.
    const v1::DramCounts& counts = dram.counts();
    const bool closes = spec.hbm2().page_policy() == v1::Hbm2Spec::CLOSED;
    commands += counts.reads() + counts.writes() + counts.activations() + counts.refreshes() +
                (closes ? 0 : counts.precharges());
    bytes_per_second =
        static_cast<double>(kRequests * kBurst) / (static_cast<double>(now_ps) * 1e-12);
  }
  state.counters["commands/s"] =
      benchmark::Counter(static_cast<double>(commands), benchmark::Counter::kIsRate);
  state.counters["limit commands/s"] = 20e6;
  state.counters["GB/s"] = bytes_per_second * 1e-9;
  state.counters["peak GB/s"] = dram.peak_bandwidth() * 1e-9;
}

void Stream(benchmark::State& state) {
  Run(state, Spec(static_cast<int>(state.range(0))),
      [](int64_t i) { return DramRequest{.address = static_cast<uint64_t>(i) * kBurst}; });
}
void RandomReads(benchmark::State& state) {
  Run(state, Spec(static_cast<int>(state.range(0))),
      [](int64_t i) { return DramRequest{.address = Scatter(static_cast<uint64_t>(i)) * kBurst}; });
}
void RandomReadsClosedPage(benchmark::State& state) {
  v1::DramSpec spec = Spec(static_cast<int>(state.range(0)));
  spec.mutable_hbm2()->set_page_policy(v1::Hbm2Spec::CLOSED);
  Run(state, spec,
      [](int64_t i) { return DramRequest{.address = Scatter(static_cast<uint64_t>(i)) * kBurst}; });
}
/// Rows of 64 elements of 12 bit (three bursts), scattered, one write in eight: pruned attention.
void ScatteredRows(benchmark::State& state) {
  Run(state, Spec(static_cast<int>(state.range(0))), [](int64_t i) {
    const uint64_t row = Scatter(static_cast<uint64_t>(i / 3)) % 65536;
    return DramRequest{.address = (row * 3 + static_cast<uint64_t>(i % 3)) * kBurst,
                       .write = (i / 3) % 8 == 7};
  });
}
BENCHMARK(Stream)->Arg(1)->Arg(16)->Unit(benchmark::kMillisecond);
BENCHMARK(RandomReads)->Arg(1)->Arg(16)->Unit(benchmark::kMillisecond);
BENCHMARK(RandomReadsClosedPage)->Arg(1)->Arg(16)->Unit(benchmark::kMillisecond);
BENCHMARK(ScatteredRows)->Arg(1)->Arg(16)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace thresher
