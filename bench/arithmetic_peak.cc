#include "bench/arithmetic_peak.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "absl/functional/function_ref.h"
#include "backend/device/cpu/amx_tiles-inl.h"
#include "backend/device/cpu/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/arithmetic_peak.cc"
#include "hwy/foreach_target.h"  // Compiles this file once for each target.
// After foreach_target.h:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/// Twelve independent chains of `steps` multiply-adds; returns operations done.
double MultiplyFloats(int64_t steps, float* sink) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const V a = hn::Set(d, 0.999f), b = hn::Set(d, 0.001f);
  // Different beginnings, lest the compiler see that the chains are one.
  V s0 = a, s1 = a + b, s2 = s1 + b, s3 = s2 + b, s4 = s3 + b, s5 = s4 + b, s6 = s5 + b,
    s7 = s6 + b, s8 = s7 + b, s9 = s8 + b, s10 = s9 + b, s11 = s10 + b;
  for (int64_t i = 0; i < steps; ++i) {
    s0 = hn::MulAdd(s0, a, b), s1 = hn::MulAdd(s1, a, b), s2 = hn::MulAdd(s2, a, b);
    s3 = hn::MulAdd(s3, a, b), s4 = hn::MulAdd(s4, a, b), s5 = hn::MulAdd(s5, a, b);
    s6 = hn::MulAdd(s6, a, b), s7 = hn::MulAdd(s7, a, b), s8 = hn::MulAdd(s8, a, b);
    s9 = hn::MulAdd(s9, a, b), s10 = hn::MulAdd(s10, a, b), s11 = hn::MulAdd(s11, a, b);
  }
  s0 = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9 + s10 + s11;
  *sink = hn::GetLane(hn::SumOfLanes(d, s0));
  return 12.0 * 2.0 * static_cast<double>(hn::Lanes(d)) * static_cast<double>(steps);
}

/// The same of sums of pairs of integers: eight chains of additions, of products of four factors
/// from the first-level cache with two in registers. The former may have changed as far as the
/// compiler knows, or it would multiply only once.
double MultiplyIntegers(int64_t steps, float* sink) {
  constexpr size_t kRows = 4;
  const hn::ScalableTag<int32_t> d;
  const hn::Repartition<int16_t, decltype(d)> d16;
  HWY_ALIGN int16_t factors[kRows * HWY_MAX_BYTES / sizeof(int16_t)];
  std::fill(std::begin(factors), std::end(factors), int16_t{3});
  const auto b0 = hn::Iota(d16, 1), b1 = hn::Iota(d16, 2);
  hn::Vec<decltype(d)> sum[kRows][2];
  auto other = hn::Zero(d);  // The second sum, which is unused on x86.
#pragma GCC unroll 4
  for (size_t r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = other;
  for (int64_t i = 0; i < steps; ++i) {
    asm volatile("" : : "r"(factors) : "memory");
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      const auto a = hn::Load(d16, factors + r * hn::Lanes(d16));
      sum[r][0] = hn::ReorderWidenMulAccumulate(d, a, b0, sum[r][0], other);
      sum[r][1] = hn::ReorderWidenMulAccumulate(d, a, b1, sum[r][1], other);
    }
  }
  // To memory, since GCC copies sums in every step of the loop if it needs them in registers later.
  HWY_ALIGN int32_t sums[2 * kRows * HWY_MAX_BYTES / sizeof(int32_t)];
#pragma GCC unroll 4
  for (size_t r = 0; r < kRows; ++r) {
    hn::Store(sum[r][0], d, sums + 2 * r * hn::Lanes(d));
    hn::Store(sum[r][1], d, sums + (2 * r + 1) * hn::Lanes(d));
  }
  asm volatile("" : : "r"(sums) : "memory");
  *sink = static_cast<float>(sums[0] + hn::GetLane(other));
  return kRows * 2 * 4.0 * static_cast<double>(hn::Lanes(d)) * static_cast<double>(steps);
}

}  // namespace
}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thresher {

HWY_EXPORT(MultiplyFloats);
HWY_EXPORT(MultiplyIntegers);

namespace {

/// `loop` runs on every thread, and returns the operations it did.
double MeasurePeak(int threads, absl::FunctionRef<double(int64_t steps, float* sink)> loop) {
  constexpr int64_t kSteps = 1'000'000;
  ThreadPool pool(threads);
  double best = 0.0;
  for (int run = 0; run < 20; ++run) {
    std::vector<double> operations(static_cast<size_t>(threads));
    volatile float sink = 0.0f;
    const auto begin = std::chrono::steady_clock::now();
    pool.ParallelFor(4 * threads, [&](int64_t, int worker) {
      float result = 0.0f;
      operations[static_cast<size_t>(worker)] += loop(kSteps, &result);
      if (worker == 0) sink = result;  // So that the loop is not optimised away.
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    double total = 0.0;
    for (const double count : operations) total += count;
    best = std::max(best, total / seconds.count() * 1e-9);
  }
  return best;
}

}  // namespace

double FloatPeak(int threads) {
  static const double peak = MeasurePeak(threads, [](int64_t steps, float* sink) {
    return HWY_DYNAMIC_DISPATCH(MultiplyFloats)(steps, sink);
  });
  return peak;
}

double IntegerPeak(int threads) {
  static const double peak = MeasurePeak(threads, [](int64_t steps, float* sink) {
    return HWY_DYNAMIC_DISPATCH(MultiplyIntegers)(steps, sink);
  });
  return peak;
}

#if defined(__x86_64__)
namespace {

constexpr size_t kChains = 12;

// The like for dot products: four multiply-adds of int8 in each of sixteen lanes,
HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vnni")
double MultiplyByVnni(int64_t steps, float* sink) {
  const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  __m512i sum[kChains];
#pragma GCC unroll 12
  for (size_t c = 0; c < kChains; ++c) sum[c] = _mm512_set1_epi32(static_cast<int>(c));
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (size_t c = 0; c < kChains; ++c) sum[c] = _mm512_dpbusd_epi32(sum[c], a, b);
  }
#pragma GCC unroll 12
  for (size_t c = 1; c < kChains; ++c) sum[0] = _mm512_xor_si512(sum[0], sum[c]);
  int32_t lanes[16];
  _mm512_storeu_si512(lanes, sum[0]);
  *sink = static_cast<float>(lanes[0]);
  return kChains * 2.0 * 64.0 * static_cast<double>(steps);
}
HWY_POP_ATTRIBUTES

// or two of bfloat16.
HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512bf16")
double MultiplyByBf16(int64_t steps, float* sink) {
  const __m512i a = _mm512_set1_epi16(0x3F80),
                b = _mm512_set1_epi16(0x0080);  // 1, and very little.
  __m512 sum[kChains];
#pragma GCC unroll 12
  for (size_t c = 0; c < kChains; ++c) sum[c] = _mm512_set1_ps(static_cast<float>(c));
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (size_t c = 0; c < kChains; ++c) {
      sum[c] = _mm512_dpbf16_ps(sum[c], (__m512bh)(a), (__m512bh)(b));
    }
  }
#pragma GCC unroll 12
  for (size_t c = 1; c < kChains; ++c) sum[0] = _mm512_add_ps(sum[0], sum[c]);
  float lanes[16];
  _mm512_storeu_ps(lanes, sum[0]);
  *sink = lanes[0];
  return kChains * 2.0 * 32.0 * static_cast<double>(steps);
}
HWY_POP_ATTRIBUTES

// And for AMX: four tiles of sums, each longer on its way than the next three take to begin.
template <Precision kPrecision>
double MultiplyByAmx(int64_t steps, float* sink) {
  const TileConfig config = AmxConfig(kAmxRows, kAmxRows);
  asm volatile("ldtilecfg %0" : : "m"(config));
  asm volatile(
      "tilezero %tmm0\n tilezero %tmm1\n tilezero %tmm2\n tilezero %tmm3\n"
      "tilezero %tmm4\n tilezero %tmm6");
  for (int64_t i = 0; i < steps; ++i) {
    if constexpr (kPrecision == Precision::kInt8) {
      asm volatile(
          "tdpbssd %tmm6, %tmm4, %tmm0\n tdpbssd %tmm6, %tmm4, %tmm1\n"
          "tdpbssd %tmm6, %tmm4, %tmm2\n tdpbssd %tmm6, %tmm4, %tmm3");
    } else {
      asm volatile(
          "tdpbf16ps %tmm6, %tmm4, %tmm0\n tdpbf16ps %tmm6, %tmm4, %tmm1\n"
          "tdpbf16ps %tmm6, %tmm4, %tmm2\n tdpbf16ps %tmm6, %tmm4, %tmm3");
    }
  }
  asm volatile("tilerelease");
  *sink = 0.0f;
  constexpr double kDepth = kPrecision == Precision::kInt8 ? 64.0 : 32.0;
  return 4.0 * 2.0 * 16.0 * 16.0 * kDepth * static_cast<double>(steps);
}

}  // namespace

double AmxPeak(int threads, Precision precision) {
  if (precision == Precision::kInt8) {
    static const double peak = MeasurePeak(threads, MultiplyByAmx<Precision::kInt8>);
    return peak;
  }
  static const double peak = MeasurePeak(threads, MultiplyByAmx<Precision::kBF16>);
  return peak;
}

double DotPeak(int threads, Precision precision) {
  if (precision == Precision::kInt8) {
    static const double peak = MeasurePeak(threads, MultiplyByVnni);
    return peak;
  }
  static const double peak = MeasurePeak(threads, MultiplyByBf16);
  return peak;
}
#else
double AmxPeak(int, Precision) { return 0.0; }
double DotPeak(int, Precision) { return 0.0; }
#endif

double ProductPeak(const Device& device, Precision precision) {
  const std::string& isa = device.description().isa;
  const auto has = [&isa](const char* part) { return isa.find(part) != std::string::npos; };
  const int threads = device.description().threads;
  if (precision == Precision::kF32) return FloatPeak(threads);
  if (has("amx")) return AmxPeak(threads, precision);
  if (precision == Precision::kBF16) {
    return has("bf16") ? DotPeak(threads, precision) : FloatPeak(threads);
  }
  return has("vnni") || has("bf16") ? DotPeak(threads, precision) : IntegerPeak(threads);
}

}  // namespace thresher
#endif  // HWY_ONCE
