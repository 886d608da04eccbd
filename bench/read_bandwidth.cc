#include "bench/read_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "backend/device/cpu/thread_pool.h"
#include "backend/tensor/matrix.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/read_bandwidth.cc"
#include "hwy/foreach_target.h"  // Compiles this file once for each target.
// After foreach_target.h:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/// Reads `words` (a multiple of four vectors) as four streams, which is a little faster than one.
uint64_t Read(const uint64_t* from, size_t words) {
  const hn::ScalableTag<uint64_t> d;
  const size_t stream = words / 4;
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  for (size_t i = 0; i < stream; i += hn::Lanes(d)) {
    s0 = hn::Or(s0, hn::Load(d, from + i));
    s1 = hn::Or(s1, hn::Load(d, from + i + stream));
    s2 = hn::Or(s2, hn::Load(d, from + i + 2 * stream));
    s3 = hn::Or(s3, hn::Load(d, from + i + 3 * stream));
  }
  return hn::GetLane(hn::Or(hn::Or(s0, s1), hn::Or(s2, s3)));
}

}  // namespace
}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thresher {

HWY_EXPORT(Read);

double MeasureReadBandwidth(int threads, size_t bytes) {
  constexpr size_t kTask = size_t{1} << 20;
  const size_t tasks = std::max<size_t>(1, bytes / kTask);
  AlignedBuffer<std::byte> memory(tasks * kTask);
  std::memset(memory.data(), 1, memory.size());  // Pages that were never written are one page.
  ThreadPool pool(threads);
  double best = 0.0;
  for (int run = 0; run < 8; ++run) {
    volatile uint64_t sink = 0;
    const auto begin = std::chrono::steady_clock::now();
    pool.ParallelFor(static_cast<int64_t>(tasks), [&](int64_t task, int worker) {
      const std::byte* from = memory.data() + static_cast<size_t>(task) * kTask;
      const uint64_t read =
          HWY_DYNAMIC_DISPATCH(Read)(reinterpret_cast<const uint64_t*>(from), kTask / 8);
      if (worker == 0) sink = read;  // So that the loop is not optimised away.
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(memory.size()) / seconds.count() * 1e-9);
  }
  return best;
}

}  // namespace thresher
#endif  // HWY_ONCE
