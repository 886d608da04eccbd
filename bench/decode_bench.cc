// What limits a decoder's generated tokens is the reading of memory: the cpu device's products with
// the weights of a GPT-2-small, and its attention over long KV caches, held against the measured
// read bandwidth.
//
// Threads and device: bench/bench_device.h.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/device.h"
#include "backend/device/kv_cache.h"
#include "backend/tensor/matrix.h"
#include "bench/bench_device.h"
#include "bench/read_bandwidth.h"

namespace thresher {
namespace {

using benchmark::Counter;
using benchmark::State;

Device& Cpu() {
  static const std::unique_ptr<Device> device = CreateBenchDevice();
  return *device;
}

MatrixBuffer Random(int64_t rows, int64_t cols, float deviation) {
  static std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, deviation);
  MatrixBuffer matrix(rows, cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (float& v : matrix.view().row_span(r)) v = normal(random);
  }
  return matrix;
}

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// `bytes` read in each iteration, held against the bandwidth.
void SetBytes(State& state, double bytes) {
  static const double bandwidth = MeasureReadBandwidth(BenchThreads(), size_t{512} << 20);
  state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["limit GB/s"] = bandwidth;
}

// ---- Products ----

/// The products of one token of a GPT-2-small: twelve layers and the output head, each with weights
/// of its own in memory.
class Network {
 public:
  explicit Network(Precision precision) {
    const auto pack = [&](int64_t out, int64_t in, int count) {
      const MatrixBuffer weight = Random(std::min<int64_t>(out, 4096), in, 0.02f);
      // A large one repeats its rows, which no kernel knows.
      MatrixBuffer whole(out, in);
      for (int64_t r = 0; r < out; ++r) {
        std::copy_n(weight.view().row(r % weight.view().rows), in, whole.view().row(r));
      }
      for (int i = 0; i < count; ++i) {
        linears_.push_back(*Cpu().Pack({DType::kF32, whole.view().data, out, in}, {}, precision));
        bytes_ += linears_.back()->bytes();
      }
    };
    pack(3 * kWidth, kWidth, kLayers);
    pack(kWidth, kWidth, kLayers);
    pack(4 * kWidth, kWidth, kLayers);
    pack(kWidth, 4 * kWidth, kLayers);
    pack(50257, kWidth, 1);
  }

  size_t bytes() const { return bytes_; }

  bool Run(ConstMatrix x, Matrix y) const {
    for (size_t i = 0; i < linears_.size(); ++i) {
      // Layer by layer, the head last.
      const size_t place = i + 1 == linears_.size() ? i : i % 4 * kLayers + i / 4;
      const PackedLinear& linear = *linears_[place];
      const ConstMatrix in(x.data, x.rows, linear.in_features(), x.stride);
      const Matrix out(y.data, y.rows, linear.out_features(), y.stride);
      if (!Cpu().Linear(linear, in, Activation::kNone, out).ok()) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kWidth = 768;
  static constexpr int kLayers = 12;
  std::vector<std::unique_ptr<PackedLinear>> linears_;
  size_t bytes_ = 0;
};

// Arguments: rows (tokens of as many texts), precision. Every weight is read once, whatever the
// rows.
void BM_DecodeLinears(State& state) {
  const int64_t rows = state.range(0);
  const auto precision = static_cast<Precision>(state.range(1));
  // The last one is kept: the next benchmark has the same.
  static std::pair<Precision, std::unique_ptr<Network>> network;
  if (network.second == nullptr || network.first != precision) {
    network.second.reset();
    network = {precision, std::make_unique<Network>(precision)};
  }
  const MatrixBuffer x = Random(rows, 3072, 1.0f);
  MatrixBuffer y(rows, 50257);
  for (auto _ : state) {
    if (!network.second->Run(x.view(), y.view())) state.SkipWithError("linear failed");
  }
  SetBytes(state, static_cast<double>(network.second->bytes()));
  state.counters["tokens/s"] =
      Counter(static_cast<double>(rows), Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(Name(precision)));
}
BENCHMARK(BM_DecodeLinears)
    ->ArgNames({"rows", "precision"})
    ->ArgsProduct({{1, 2, 4, 8}, {0}})
    ->ArgsProduct({{1, 2, 4, 8}, {1}})
    ->ArgsProduct({{1, 2, 4, 8}, {2}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// ---- Attention ----

constexpr int32_t kContext = 4096;
constexpr int32_t kSequences = 8;
constexpr AttentionShape kShape{12, 12, 64};
// So that what one layer's attention reads is out of the cache when its turn comes again.
constexpr int32_t kCachedLayers = 4;

/// The caches of some texts, full of random rows, and a token of each, whose scores are spread
/// enough (a deviation of 4) for most of its heads to have a favourite.
class Caches {
 public:
  explicit Caches(const KvFormat& format)
      : layout_(format, kCachedLayers, kShape.kv_heads, kShape.head_dim),
        query_(Random(kSequences, int64_t{kShape.heads} * kShape.head_dim, 4.0f)),
        out_(kSequences, int64_t{kShape.heads} * kShape.head_dim) {
    constexpr int32_t kPages = kContext / kKvPageTokens;
    pool_.Resize(kSequences * kPages * layout_.page_bytes());
    for (size_t i = 0; i < size_t{kSequences} * kPages; ++i) {
      pointers_.push_back(pool_.data() + i * layout_.page_bytes());
      if (i < kPages) {
        Fill(pointers_[i]);
      } else {  // All texts are the same one.
        std::copy_n(pointers_[i - kPages], layout_.page_bytes(), pointers_[i]);
      }
    }
    for (int32_t s = 0; s < kSequences; ++s) {
      sequences_.push_back(
          {.first_row = s,
           .rows = 1,
           .decode = true,
           .pages = std::span(pointers_).subspan(static_cast<size_t>(s) * kPages, kPages),
           .slots = kContext});
    }
  }

  /// From here on tokens read this share of the slots, here and there, and of the values.
  void Keep(double keys, double values, double refetch_threshold) {
    std::mt19937 random(2);
    std::bernoulli_distribution kept(keys);
    reads_.resize(kSequences);
    for (size_t s = 0; s < reads_.size(); ++s) {
      for (int32_t slot = 0; slot < kContext; ++slot) {
        if (slot + 1 == kContext || kept(random)) reads_[s].push_back(slot);
      }
      sequences_[s].reads = reads_[s];
      sequences_[s].value_keep = values;
      sequences_[s].refetch_threshold = refetch_threshold;
    }
  }

  /// Share of the last step's softmax rows that were refetched, in percent.
  double refetched() const { return refetched_; }

  /// One step in all layers; returns the bytes of K and V read, 0 if it failed.
  int64_t Run() {
    int64_t bytes = 0, rows = 0, refetched = 0;
    std::vector<CachedRecord> records(kSequences);
    for (int32_t l = 0; l < kCachedLayers; ++l) {
      if (!Cpu()
               .CachedAttention({.shape = kShape,
                                 .query = query_.view(),
                                 .layout = &layout_,
                                 .layer = l,
                                 .sequences = sequences_,
                                 .scale = 0.125f},
                                out_.view(), records)
               .ok()) {
        return 0;
      }
      for (const CachedRecord& record : records) {
        bytes += record.bytes;
        rows += record.rows;
        refetched += record.refetched_rows;
      }
    }
    refetched_ = 100.0 * static_cast<double>(refetched) / static_cast<double>(rows);
    return bytes;
  }

 private:
  void Fill(std::byte* page) {
    for (int32_t l = 0; l < kCachedLayers; ++l) {
      for (int32_t h = 0; h < kShape.kv_heads; ++h) {
        const MatrixBuffer rows = Random(kKvPageTokens, kShape.head_dim, 1.0f);
        for (int32_t s = 0; s < kKvPageTokens; ++s) {
          StoreKeyRow(layout_, rows.view().row(s), s, layout_.keys(page, l, h));
          StoreValueRow(layout_, rows.view().row(s), s, layout_.values(page, l, h));
        }
      }
    }
  }

  KvLayout layout_;
  MatrixBuffer query_, out_;
  AlignedBuffer<std::byte> pool_;
  std::vector<std::byte*> pointers_;
  std::vector<CachedSequence> sequences_;
  std::vector<std::vector<int32_t>> reads_;
  double refetched_ = 0;
};

// A token of each of eight texts of 4096, by format of the cache.
void BM_DecodeAttention(State& state, const KvFormat& format) {
  Caches caches(format);
  int64_t bytes = 0;
  for (auto _ : state) {
    bytes = caches.Run();
    if (bytes == 0) state.SkipWithError("attention failed");
  }
  SetBytes(state, static_cast<double>(bytes));
}

// The same where a quarter of the keys is read, in planes of 6 and 4 bits, and `values` of those
// keys' values. "ratio to dense": of the same element, step by step in turns; its limit is the
// bytes of both.
void BM_PrunedDecodeAttention(State& state, DType element, double values) {
  Caches dense({.element = element});
  Caches pruned({.element = element, .planes = KeyPlanes{6, 4}});
  pruned.Keep(0.25, values, 0.1);
  int64_t bytes = 0, dense_bytes = 0;
  double seconds = 0, dense_seconds = 0;
  for (auto _ : state) {
    auto begin = std::chrono::steady_clock::now();
    dense_bytes = dense.Run();
    dense_seconds += SecondsSince(begin);
    begin = std::chrono::steady_clock::now();
    bytes = pruned.Run();
    const double took = SecondsSince(begin);
    state.SetIterationTime(took);
    seconds += took;
    if (bytes == 0 || dense_bytes == 0) state.SkipWithError("attention failed");
  }
  SetBytes(state, static_cast<double>(bytes));
  state.counters["refetched %"] = pruned.refetched();
  state.counters["ratio to dense"] = dense_seconds / seconds;
  state.counters["limit ratio to dense"] =
      static_cast<double>(dense_bytes) / static_cast<double>(bytes);
}

BENCHMARK_CAPTURE(BM_DecodeAttention, f32, KvFormat{})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_DecodeAttention, bf16, KvFormat{.element = DType::kBF16})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_PrunedDecodeAttention, f32, DType::kF32, 1.0)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_PrunedDecodeAttention, bf16, DType::kBF16, 1.0)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_PrunedDecodeAttention, bf16_values_30, DType::kBF16, 0.3)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace thresher
