// The cpu device's operations at BERT-base shapes, held against the processor's measured float peak
// and against oneDNN called directly.
//
// Threads and device: bench/bench_device.h.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <dnnl.hpp>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/device/cpu/onednn_compat.h"
#include "backend/device/cpu/onednn_product.h"
#include "backend/device/cpu/openmp.h"
#include "backend/device/device.h"
#include "backend/tensor/matrix.h"
#include "bench/arithmetic_peak.h"
#include "bench/bench_device.h"

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

/// Operations of one iteration, held against the peak of the precision.
void SetRate(State& state, double operations, Precision precision = Precision::kF32) {
  state.counters["GFLOP/s"] = Counter(operations * 1e-9, Counter::kIsIterationInvariantRate);
  const double peak = ProductPeak(Cpu(), precision);
  if (peak > 0.0) state.counters["limit GFLOP/s"] = peak;
}

// The same product as one call of oneDNN with its own threads, weights packed as it likes, source
// already in its precision, and no promise of batch invariance: the seconds it takes, or 0 where
// oneDNN has no kernel.
double DirectOneDnnSeconds(int64_t rows, int64_t out, int64_t in, Precision precision) {
  using dnnl::memory;
  const auto type = precision == Precision::kF32    ? memory::data_type::f32
                    : precision == Precision::kBF16 ? memory::data_type::bf16
                                                    : memory::data_type::s8;
  const auto sum_type =
      precision == Precision::kInt8 ? memory::data_type::s32 : memory::data_type::f32;
  const int threads_before = omp_get_max_threads();
  omp_set_num_threads(BenchThreads());
  double best = 0.0;
  try {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    const memory::desc source({rows, in}, type, memory::format_tag::ab);
    const memory::desc weights({in, out}, type, memory::format_tag::any);
    const memory::desc destination({rows, out}, sum_type, memory::format_tag::ab);
    const auto descriptor = MakeMatmul(engine, source, weights, destination, {});
    const dnnl::matmul matmul(descriptor);
    const memory from(source, engine), packed(descriptor.weights_desc(), engine),
        to(destination, engine);
    for (const memory& m : {from, packed, to}) {
      std::memset(m.get_data_handle(), 0, m.get_desc().get_size());
    }
    const auto start = std::chrono::steady_clock::now();
    for (int run = 0; run < 10 || SecondsSince(start) < 0.05; ++run) {
      const auto begin = std::chrono::steady_clock::now();
      matmul.execute(stream,
                     {{DNNL_ARG_SRC, from}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_DST, to}});
      stream.wait();
      const double seconds = SecondsSince(begin);
      if (run == 0 || seconds < best) best = seconds;
    }
  } catch (const dnnl::error&) {
    best = 0.0;
  }
  omp_set_num_threads(threads_before);
  return best;
}

// Arguments: rows, out, in, precision. "ratio to oneDNN" is what batch invariance costs or gains:
// one direct call against all of ours, conversion of the activations and bias included; best of
// each.
void BM_Linear(State& state) {
  const int64_t rows = state.range(0), out = state.range(1), in = state.range(2);
  const auto precision = static_cast<Precision>(state.range(3));
  const MatrixBuffer weight = Random(out, in, 0.02f), x = Random(rows, in, 1.0f);
  const auto packed = Cpu().Pack({DType::kF32, weight.view().data, out, in}, {}, precision);
  MatrixBuffer y(rows, out);
  double best = 1e9;
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    if (!Cpu().Linear(**packed, x.view(), Activation::kNone, y.view()).ok()) {
      state.SkipWithError("linear failed");
    }
    best = std::min(best, SecondsSince(begin));
  }
  SetRate(state, 2.0 * static_cast<double>(rows * out * in), precision);
  const double direct = DirectOneDnnSeconds(rows, out, in, precision);
  if (direct > 0.0) state.counters["ratio to oneDNN"] = direct / best;
  state.SetLabel(std::string(Name(precision)));
}

void LinearShapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"M", "N", "K", "precision"})->UseRealTime()->Unit(benchmark::kMicrosecond);
  for (const int precision : {0, 1, 2}) {
    for (const auto& [n, k] : {std::pair(768, 768), std::pair(3072, 768), std::pair(768, 3072)}) {
      for (const int m : {1, 8, 32, 128, 512}) bench->Args({m, n, k, precision});
    }
  }
  for (const int m : {1, 8, 32}) bench->Args({m, 192, 192, 0});  // The embedded model's.
}
BENCHMARK(BM_Linear)->Apply(LinearShapes);

void BM_LinearGelu(State& state) {
  const MatrixBuffer weight = Random(3072, 768, 0.02f), x = Random(128, 768, 1.0f);
  const auto packed = Cpu().Pack({DType::kF32, weight.view().data, 3072, 768}, {}, Precision::kF32);
  MatrixBuffer y(128, 3072);
  for (auto _ : state) {
    static_cast<void>(Cpu().Linear(**packed, x.view(), Activation::kGelu, y.view()));
  }
  SetRate(state, 2.0 * 128 * 768 * 3072);
}
BENCHMARK(BM_LinearGelu)->UseRealTime()->Unit(benchmark::kMicrosecond);

// Arguments: sequences, length. Twelve heads of 64.
void BM_Attention(State& state) {
  const auto sequences = static_cast<int32_t>(state.range(0));
  const auto length = static_cast<int32_t>(state.range(1));
  const int64_t tokens = int64_t{sequences} * length;
  const MatrixBuffer q = Random(tokens, 768, 1.0f), k = Random(tokens, 768, 1.0f),
                     v = Random(tokens, 768, 1.0f);
  std::vector<int32_t> offsets;
  for (int32_t s = 0; s <= sequences; ++s) offsets.push_back(s * length);
  MatrixBuffer out(tokens, 768);
  for (auto _ : state) {
    static_cast<void>(Cpu().Attention({.shape = {12, 12, 64},
                                       .query = q.view(),
                                       .key = k.view(),
                                       .value = v.view(),
                                       .offsets = offsets,
                                       .scale = 0.125f},
                                      out.view()));
  }
  SetRate(state, 4.0 * static_cast<double>(tokens) * length * 768);
}
BENCHMARK(BM_Attention)
    ->ArgNames({"sequences", "length"})
    ->Args({8, 16})
    ->Args({1, 128})
    ->Args({8, 128})
    ->Args({1, 384})
    ->Args({4, 384})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

void BM_LayerNorm(State& state) {
  const int64_t rows = state.range(0);
  const MatrixBuffer x = Random(rows, 768, 1.0f), residual = Random(rows, 768, 1.0f);
  const std::vector<float> gamma(768, 1.0f), beta(768, 0.0f);
  MatrixBuffer y(rows, 768);
  for (auto _ : state) {
    static_cast<void>(Cpu().LayerNorm(x.view(), residual.view(), gamma, beta, 1e-12f, y.view()));
  }
  state.SetBytesProcessed(state.iterations() * rows * 768 * 3 * 4);
}
BENCHMARK(BM_LayerNorm)->Arg(8)->Arg(128)->Arg(1024)->UseRealTime()->Unit(benchmark::kMicrosecond);

// What choosing oneDNN's kernels costs when a BERT-base model is first packed (argument:
// precision).
void BM_Probe(State& state) {
  const auto precision = static_cast<Precision>(state.range(0));
  for (auto _ : state) {
    OneDnn onednn;
    for (const int64_t k : {768, 3072}) {
      const auto probe = onednn.ProbeKernel(precision, k, 192);
      if (probe.ok()) {
        state.SetLabel(probe->implementation.empty() ? "own kernel" : probe->implementation);
      }
    }
  }
}
BENCHMARK(BM_Probe)->ArgName("precision")->DenseRange(0, 2)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace thresher
