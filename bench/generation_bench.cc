// Generation end to end in the engine: a GPT-2-small with random weights, whole steps. What is
// generated means nothing; what it costs is real.
//
// A decode step at batch 1 can go no faster than its weights are read: `GB/s` (weights and cache)
// against the machine's own read bandwidth, measured in the same run.
//
// Threads and device: bench/bench_device.h.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "backend/engine/decoder_engine.h"
#include "backend/tensor/status.h"
#include "bench/arithmetic_peak.h"
#include "bench/bench_device.h"
#include "bench/read_bandwidth.h"
#include "bench/timed_device.h"
#include "tests/testing/paths.h"
#include "tests/testing/random_checkpoint.h"

namespace thresher {
namespace {

using benchmark::Counter;
using benchmark::State;

constexpr int32_t kPositions = 4608;

std::shared_ptr<TimedDevice> Timed() {
  static const auto device = std::make_shared<TimedDevice>(CreateBenchDevice());
  return device;
}

/// One model for each precision, kept for all benchmarks.
DecoderEngine& Engine(Precision precision) {
  static const testing::TempDir directory;
  static const bool written =
      testing::WriteRandomGpt2(directory.path(), {.positions = kPositions}).ok();
  if (!written) throw std::runtime_error("the checkpoint could not be written");
  static std::map<Precision, std::unique_ptr<DecoderEngine>> engines;
  std::unique_ptr<DecoderEngine>& engine = engines[precision];
  if (engine == nullptr) {
    const DecoderConfig config = ValueOf(LoadDecoderConfig(directory.path().string()));
    engine = ValueOf(DecoderEngine::Load(directory.path().string(), config, Timed(), precision,
                                         kPositions, std::make_shared<KvPool>(size_t{8} << 30)));
  }
  return *engine;
}

/// `texts` texts that have read `context` tokens each under the policy, of which `first` is the
/// first.
class Batch {
 public:
  Batch(DecoderEngine& engine, int32_t texts, int32_t context, const std::string& policy,
        int32_t first = 0)
      : engine_(engine), ids_(static_cast<size_t>(context)), next_(1) {
    const std::shared_ptr<const Policy> parsed = ValueOf(engine.ParsePolicy(policy));
    for (size_t i = 0; i < ids_.size(); ++i) ids_[i] = static_cast<int32_t>(i * 7919 % 50257);
    ids_[0] = first;
    constexpr int32_t kSteps = 256;
    const size_t bytes = engine.CacheBytes(parsed.get(), context, context + kSteps);
    for (int32_t t = 0; t < texts; ++t) texts_.push_back(ValueOf(engine.Start(parsed, {}, bytes)));
    for (const CachedTextPtr& text : texts_) {
      for (size_t begin = 0; begin < ids_.size(); begin += 512) {
        const size_t count = std::min<size_t>(512, ids_.size() - begin);
        Step({{.text = text.get(),
               .ids = std::span(ids_).subspan(begin, count),
               .prompt_tokens = context}});
      }
    }
  }

  /// One token for each text, logits and all.
  void Decode() {
    std::vector<StepPart> parts;
    for (const CachedTextPtr& text : texts_) {
      parts.push_back(
          {.text = text.get(), .ids = std::span(&next_, 1), .logits = StepPart::Logits::kLast});
    }
    Step(parts);
  }
  /// Bytes of cache that the decode steps read, of all texts, so far.
  double BytesRead() const {
    double bytes = 0;
    for (const CachedTextPtr& text : texts_) {
      bytes += static_cast<double>(DecoderEngine::Report(*text).decode().bytes().done());
    }
    return bytes;
  }

 private:
  void Step(const std::vector<StepPart>& parts) {
    const absl::Status status =
        engine_.Step(parts, [](size_t, int32_t, std::span<const float> logits) {
          benchmark::DoNotOptimize(logits.data());
        });
    if (!status.ok()) throw std::runtime_error(Message(status));
  }

  DecoderEngine& engine_;
  std::vector<int32_t> ids_;
  int32_t next_;
  std::vector<CachedTextPtr> texts_;
};

double Bandwidth() {
  static const double bandwidth = MeasureReadBandwidth(BenchThreads(), size_t{512} << 20);
  return bandwidth;
}

/// What the time went into.
void Report(State& state, const std::vector<double>& seconds) {
  static const double cached = MeasureReadBandwidth(BenchThreads(), size_t{8} << 20);
  const double sum = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  Timed()->Report(state.iterations(), sum, Bandwidth(), cached, state);
}

/// One text: weights once a token.
void DecodeOne(State& state, Precision precision, int32_t context) {
  DecoderEngine& engine = Engine(precision);
  Batch batch(engine, 1, context, "dense");
  std::vector<double> seconds;
  Timed()->Reset();
  for (auto _ : state) seconds.push_back(SecondsOf([&] { batch.Decode(); }));
  const double bytes = static_cast<double>(engine.packed_bytes()) +
                       batch.BytesRead() / static_cast<double>(state.iterations());
  state.counters["GB/s"] = bytes / Median(seconds) * 1e-9;
  state.counters["limit GB/s"] = Bandwidth();
  state.counters["median ms"] = Median(seconds) * 1e3;
  state.counters["tokens/s"] = 1 / Median(seconds);
  Report(state, seconds);
}

/// Batch 8 against batch 1, at context 128, in turns.
void DecodeEight(State& state, Precision precision) {
  DecoderEngine& engine = Engine(precision);
  Batch one(engine, 1, 128, "dense"), eight(engine, 8, 128, "dense");
  std::vector<double> alone, together;
  for (auto _ : state) {
    alone.push_back(SecondsOf([&] { one.Decode(); }));
    together.push_back(SecondsOf([&] { eight.Decode(); }));
  }
  state.counters["tokens/s"] = 8 / Median(together);
  state.counters["ratio to batch 1"] = 8 * Median(alone) / Median(together);
}

/// 8 texts of 4096 tokens, pruned against dense, in turns.
void DecodeLong(State& state, Precision precision, const std::string& policy) {
  DecoderEngine& engine = Engine(precision);
  Batch dense(engine, 8, 4096, "dense"), pruned(engine, 8, 4096, policy);
  std::vector<double> without, with;
  for (auto _ : state) {
    without.push_back(SecondsOf([&] { dense.Decode(); }));
    with.push_back(SecondsOf([&] { pruned.Decode(); }));
  }
  const auto steps = static_cast<double>(state.iterations());
  const auto weights = static_cast<double>(engine.packed_bytes());
  state.counters["tokens/s"] = 8 / Median(with);
  state.counters["ratio to dense"] = Median(without) / Median(with);
  state.counters["bytes ratio"] =
      (weights + dense.BytesRead() / steps) / (weights + pruned.BytesRead() / steps);
  state.counters["dense GB/s"] = (weights + dense.BytesRead() / steps) / Median(without) * 1e-9;
}

/// A prompt of 512 tokens.
void Prefill(State& state, Precision precision) {
  DecoderEngine& engine = Engine(precision);
  std::vector<double> seconds;
  static int32_t next_first = 1;
  Timed()->Reset();
  for (auto _ : state) {
    // Another beginning each time, lest it be taken from the text before.
    seconds.push_back(SecondsOf([&] { Batch(engine, 1, 512, "dense", next_first++); }));
  }
  state.counters["median ms"] = Median(seconds) * 1e3;
  state.counters["tokens/s"] = 512 / Median(seconds);
  // Multiply-adds of a layer's products, twice, and of causal attention.
  const double flops = 12 * (2.0 * 512 * 12 * 768 * 768 + 2.0 * 512 * 512 * 768);
  state.counters["GFLOP/s"] = flops / Median(seconds) * 1e-9;
  const double peak = ProductPeak(*Timed(), precision);
  if (peak > 0) state.counters["limit GFLOP/s"] = peak;
  Report(state, seconds);
}

void Define() {
  const std::pair<const char*, Precision> precisions[] = {
      {"f32", Precision::kF32}, {"bf16", Precision::kBF16}, {"int8", Precision::kInt8}};
  for (const auto& [name, precision] : precisions) {
    const std::string end = std::string("/") + name;
    const auto add = [&](const std::string& title, auto run, int iterations) {
      benchmark::RegisterBenchmark((title + end).c_str(), run)
          ->Unit(benchmark::kMillisecond)
          ->Iterations(iterations)
          ->UseRealTime();
    };
    const Precision p = precision;
    for (const int32_t context : {128, 512}) {
      add(
          "Decode1x" + std::to_string(context),
          [p, context](State& state) { DecodeOne(state, p, context); }, 50);
    }
    add(
        "Decode8x128", [p](State& state) { DecodeEight(state, p); }, 20);
    add(
        "Prefill512", [p](State& state) { Prefill(state, p); }, 5);
    add(
        "Decode8x4096/keep=0.25,bits=6to4",
        [p](State& state) { DecodeLong(state, p, "spatten:keep=0.25,bits=6/4"); }, 24);
  }
}

const bool kDefined = (Define(), true);

}  // namespace
}  // namespace thresher
