// Exact top-k of a row of floats as bits, by the rule of top_k.h, for Highway's current target
// (included once for each).
//
// Floats become integers of the same order, and the k-th largest is found by halving the interval
// of integers: each step counts, in whole vectors, how many are at or above its middle. It ends as
// soon as a middle has exactly k above it, after some dozen steps.
#if defined(THRESHER_DEVICE_CPU_TOP_K_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef THRESHER_DEVICE_CPU_TOP_K_INL_H_
#undef THRESHER_DEVICE_CPU_TOP_K_INL_H_
#else
#define THRESHER_DEVICE_CPU_TOP_K_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <limits>

#include "backend/device/cpu/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {

using I32 = hn::RebindToSigned<F32>;

/// An integer for each float, in the same order; -0 and 0 alike, every NaN the lowest.
HWY_INLINE hn::Vec<I32> Ordered(VF32 x) {
  const F32 d;
  const I32 di;
  const auto bits = hn::BitCast(di, hn::Add(x, hn::Zero(d)));
  const auto low =
      hn::And(hn::BroadcastSignBit(bits), hn::Set(di, std::numeric_limits<int32_t>::max()));
  const auto ordered = hn::Xor(bits, low);
  return hn::IfThenElse(hn::RebindMask(di, hn::IsNaN(x)),
                        hn::Set(di, std::numeric_limits<int32_t>::min()), ordered);
}

/// How many of `size` integers (whole vectors) are at least `least`.
inline size_t CountAtLeast(const int32_t* values, size_t size, int32_t least) {
  const I32 di;
  const size_t lanes = hn::Lanes(di);
  // A comparison is -1 where it holds.
  const auto bound = hn::Set(di, least);
  auto below0 = hn::Zero(di), below1 = hn::Zero(di);
  size_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes) {
    below0 = hn::Add(below0, hn::VecFromMask(di, hn::Lt(hn::Load(di, values + i), bound)));
    below1 = hn::Add(below1, hn::VecFromMask(di, hn::Lt(hn::Load(di, values + i + lanes), bound)));
  }
  if (i < size) {
    below0 = hn::Add(below0, hn::VecFromMask(di, hn::Lt(hn::Load(di, values + i), bound)));
  }
  return size + static_cast<size_t>(
                    static_cast<int64_t>(hn::GetLane(hn::SumOfLanes(di, hn::Add(below0, below1)))));
}

/// Integers of scratch that ChooseLargest needs for a row of `n`.
inline size_t OrderedSize(size_t n) { return n + hn::Lanes(I32()); }

/// Sets the bits of the `k` largest of `n` scores and clears the other bits of the row's words; k
/// is at most n. `ordered` is aligned scratch.
inline void ChooseLargest(const float* scores, size_t n, size_t k, int32_t* ordered,
                          uint64_t* chosen) {
  constexpr int32_t kLowest = std::numeric_limits<int32_t>::min();
  const F32 d;
  const I32 di;
  const size_t lanes = hn::Lanes(d);
  const size_t words = (n + 63) / 64;
  if (k >= n) {
    for (size_t w = 0; w < words; ++w) {
      chosen[w] = n - w * 64 < 64 ? (uint64_t{1} << (n - w * 64)) - 1 : ~uint64_t{0};
    }
    return;
  }
  std::fill_n(chosen, words, uint64_t{0});
  if (k == 0) return;
  // What the last vector has too many is the lowest, so that it is never counted above a bound.
  size_t size = 0;
  auto highest = hn::Set(di, kLowest);
  auto lowest = hn::Set(di, std::numeric_limits<int32_t>::max());
  for (; size < n; size += lanes) {
    auto v = Ordered(LoadPart(d, scores + size, n - size));
    if (size + lanes > n) {
      v = hn::IfThenElse(hn::FirstN(di, n - size), v, hn::Set(di, kLowest));
    }
    hn::Store(v, di, ordered + size);
    highest = hn::Max(highest, v);
    lowest = hn::Min(lowest, v);
  }
  // At least k are >= low, fewer than k are >= high.
  int64_t low = hn::GetLane(hn::MinOfLanes(di, lowest));
  int64_t high = int64_t{hn::GetLane(hn::MaxOfLanes(di, highest))} + 1;
  size_t above = 0;  // How many are >= high.
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const size_t count = CountAtLeast(ordered, size, static_cast<int32_t>(middle));
    if (count >= k) low = middle;
    if (count < k) high = middle, above = count;
    if (count == k) break;
  }
  // Either exactly k are >= low, or the k-th largest is low itself and its first equals are taken.
  const bool exact = high - low > 1;
  const int64_t bound = exact ? low : high;
  if (bound <= std::numeric_limits<int32_t>::max()) {
    const auto least = hn::Set(di, static_cast<int32_t>(bound));
    for (size_t i = 0; i < size; i += lanes) {
      uint64_t bits = 0;
      const auto mask = hn::RebindMask(d, hn::Not(hn::Lt(hn::Load(di, ordered + i), least)));
      hn::StoreMaskBits(d, mask, reinterpret_cast<uint8_t*>(&bits));
      chosen[i / 64] |= bits << (i % 64);
    }
  }
  if (exact) return;
  size_t missing = k - above;
  for (size_t i = 0; i < n && missing > 0; ++i) {
    if (ordered[i] != low) continue;
    chosen[i / 64] |= uint64_t{1} << (i % 64);
    --missing;
  }
}

}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // THRESHER_DEVICE_CPU_TOP_K_INL_H_
