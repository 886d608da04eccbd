#include "bench/float_peak.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/device/cpu/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/float_peak.cc"
#include "hwy/foreach_target.h"  // Compiles this file once for each target.
// After foreach_target.h:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/// Twelve independent chains of `steps` multiply-adds; returns operations done.
double MultiplyAdds(int64_t steps, float* sink) {
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

}  // namespace
}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thresher {

HWY_EXPORT(MultiplyAdds);

double MeasureFloatPeak(int threads) {
  constexpr int64_t kSteps = 1'000'000;
  ThreadPool pool(threads);
  double best = 0.0;
  for (int run = 0; run < 20; ++run) {
    std::vector<double> operations(static_cast<size_t>(threads));
    volatile float sink = 0.0f;
    const auto begin = std::chrono::steady_clock::now();
    pool.ParallelFor(4 * threads, [&](int64_t, int worker) {
      float result = 0.0f;
      operations[static_cast<size_t>(worker)] +=
          HWY_DYNAMIC_DISPATCH(MultiplyAdds)(kSteps, &result);
      if (worker == 0) sink = result;  // So that the loop is not optimised away.
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    double total = 0.0;
    for (const double count : operations) total += count;
    best = std::max(best, total / seconds.count() * 1e-9);
  }
  return best;
}

}  // namespace thresher
#endif  // HWY_ONCE
