// A whole BERT-base with random weights through the engine, as it is served: ragged batches of
// token ids in, pooled embeddings out. What it answers means nothing; what it costs is real.
//
// `GFLOP/s` is of all products and attention, held against the peak of the precision's products;
// then for each operation its time in one run and its rate against its own limit
// (bench/timed_device.h). bench/breakdown makes a table of them.
//
// Threads and device: bench/bench_device.h.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend/engine/encoder_engine.h"
#include "backend/tensor/status.h"
#include "bench/arithmetic_peak.h"
#include "bench/bench_device.h"
#include "bench/read_bandwidth.h"
#include "bench/timed_device.h"
#include "tests/testing/paths.h"
#include "tests/testing/random_checkpoint.h"

namespace thresher {
namespace {

using benchmark::State;

constexpr int32_t kMixedLengths[] = {
#include "bench/mixed_lengths.inc"
};
// Requests of one batch where peers must pad.
constexpr size_t kPaddedBatch = 8;

std::shared_ptr<TimedDevice> Timed() {
  static const auto device = std::make_shared<TimedDevice>(CreateBenchDevice());
  return device;
}

std::unique_ptr<EncoderEngine> Load(std::shared_ptr<Device> device, Precision precision) {
  static const testing::TempDir directory;
  static const bool written = testing::WriteRandomCheckpoint(directory.path(), {.labels = 0}).ok();
  if (!written) throw std::runtime_error("the checkpoint could not be written");
  const std::string path = directory.path().string();
  const ModelConfig config = ValueOf(LoadModelConfig(path));
  return ValueOf(
      EncoderEngine::Load(path, config, std::move(device), precision, config.max_tokens()));
}

/// One model for each precision, kept for all benchmarks.
EncoderEngine& Engine(Precision precision) {
  static std::map<Precision, std::unique_ptr<EncoderEngine>> engines;
  std::unique_ptr<EncoderEngine>& engine = engines[precision];
  if (engine == nullptr) engine = Load(Timed(), precision);
  return *engine;
}

/// Texts of these lengths, run as one batch.
class Batch {
 public:
  explicit Batch(const std::vector<int32_t>& lengths) {
    for (const int32_t length : lengths) {
      Sequence sequence;
      for (int32_t i = 0; i < length; ++i) sequence.ids.push_back((1000 + 7919 * i) % 30522);
      sequence.want_embedding = true;
      sequences_.push_back(std::move(sequence));
    }
    for (const Sequence& sequence : sequences_) pointers_.push_back(&sequence);
    outputs_.resize(sequences_.size());
  }

  /// Seconds of one run.
  double Run(EncoderEngine& engine) {
    absl::Status status;
    const double took = SecondsOf([&] { status = engine.Run(pointers_, outputs_); });
    if (!status.ok()) throw std::runtime_error(Message(status));
    return took;
  }

 private:
  std::vector<Sequence> sequences_;
  std::vector<const Sequence*> pointers_;
  std::vector<SequenceOutput> outputs_;
};

void Forward(State& state, Precision precision, int32_t sequences, int32_t length) {
  EncoderEngine& engine = Engine(precision);
  Batch batch(std::vector<int32_t>(static_cast<size_t>(sequences), length));
  batch.Run(engine);
  Timed()->Reset();
  std::vector<double> seconds;
  for (auto _ : state) {
    seconds.push_back(batch.Run(engine));
    state.SetIterationTime(seconds.back());
  }
  const double median = Median(seconds);
  state.counters["median ms"] = median * 1e3;
  state.counters["tokens/s"] = sequences * length / median;
  state.counters["GFLOP/s"] =
      Timed()->operations() / static_cast<double>(state.iterations()) / median * 1e-9;
  const double peak = ProductPeak(*Timed(), precision);
  if (peak > 0) state.counters["limit GFLOP/s"] = peak;
  static const double bandwidth = MeasureReadBandwidth(BenchThreads(), size_t{512} << 20);
  static const double cached = MeasureReadBandwidth(BenchThreads(), size_t{8} << 20);
  const double sum = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  Timed()->Report(state.iterations(), sum, bandwidth, cached, state);
}

/// Requests of mixed lengths as one ragged batch, against the same in batches of eight, each padded
/// to its longest, in turns.
void Mixed(State& state, Precision precision) {
  EncoderEngine& engine = Engine(precision);
  const std::vector<int32_t> lengths(std::begin(kMixedLengths), std::end(kMixedLengths));
  Batch ragged(lengths);
  std::vector<Batch> padded;
  for (size_t first = 0; first < lengths.size(); first += kPaddedBatch) {
    const auto begin = lengths.begin() + static_cast<ptrdiff_t>(first);
    padded.emplace_back(
        std::vector<int32_t>(kPaddedBatch, *std::max_element(begin, begin + kPaddedBatch)));
  }
  std::vector<double> seconds, padded_seconds;
  for (auto _ : state) {
    seconds.push_back(ragged.Run(engine));
    state.SetIterationTime(seconds.back());
    double sum = 0;
    for (Batch& batch : padded) sum += batch.Run(engine);
    padded_seconds.push_back(sum);
  }
  state.counters["median ms"] = Median(seconds) * 1e3;
  state.counters["ratio to padded"] = Median(padded_seconds) / Median(seconds);
}

/// Texts of one length in as many streams as there are threads, each of one thread and with a model
/// of its own, against one stream of all threads: one text after the other, and eight at a time.
void Streams(State& state, Precision precision, int32_t length) {
  constexpr int kTexts = 8;  // Of each stream.
  const int threads = BenchThreads();
  std::vector<std::unique_ptr<EncoderEngine>> engines;
  engines.reserve(static_cast<size_t>(threads));
  for (int t = 0; t < threads; ++t) {
    engines.push_back(Load(CreateBenchDevice(1), precision));
  }
  const auto run = [&](EncoderEngine& engine, int runs, size_t texts) {
    Batch batch(std::vector<int32_t>(texts, length));
    for (int i = 0; i < runs; ++i) batch.Run(engine);
  };
  EncoderEngine& whole = Engine(precision);
  for (const auto& engine : engines) run(*engine, 1, 1);
  run(whole, 1, kTexts);
  std::vector<double> seconds, alone, batched;
  for (auto _ : state) {
    seconds.push_back(SecondsOf([&] {
      std::vector<std::thread> streams;
      streams.reserve(engines.size());
      for (const auto& engine : engines) {
        streams.emplace_back([&] { run(*engine, kTexts, 1); });
      }
      for (std::thread& stream : streams) stream.join();
    }));
    state.SetIterationTime(seconds.back());
    alone.push_back(SecondsOf([&] { run(whole, kTexts * threads, 1); }));
    batched.push_back(SecondsOf([&] { run(whole, threads, kTexts); }));
  }
  const double texts = kTexts * threads;
  state.counters["median ms"] = Median(seconds) / texts * 1e3;
  state.counters["ratio to one stream"] = Median(alone) / Median(seconds);
  state.counters["ratio to batches of 8"] = Median(batched) / Median(seconds);
}

void Define() {
  const std::pair<const char*, Precision> precisions[] = {
      {"f32", Precision::kF32}, {"bf16", Precision::kBF16}, {"int8", Precision::kInt8}};
  const std::pair<int32_t, int32_t> shapes[] = {{1, 128}, {8, 128}, {1, 384}, {4, 384}, {1, 512}};
  for (const auto& [name, precision] : precisions) {
    const Precision p = precision;
    const auto add = [](const std::string& title, auto run, int iterations) {
      benchmark::RegisterBenchmark(title.c_str(), run)
          ->Unit(benchmark::kMillisecond)
          ->Iterations(iterations)
          ->UseManualTime();
    };
    for (const auto& [sequences, length] : shapes) {
      add(
          "Encoder" + std::to_string(sequences) + "x" + std::to_string(length) + "/" + name,
          [p, n = sequences, l = length](State& state) { Forward(state, p, n, l); },
          sequences > 1 ? 5 : 11);
    }
    add(
        std::string("EncoderMixed/") + name, [p](State& state) { Mixed(state, p); }, 1);
    for (const int32_t length : {32, 128}) {
      add(
          "EncoderStreams" + std::to_string(length) + "/" + name,
          [p, length](State& state) { Streams(state, p, length); }, 5);
    }
  }
}

const bool kDefined = (Define(), true);

}  // namespace
}  // namespace thresher
