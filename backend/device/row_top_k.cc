#include "backend/device/row_top_k.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/device/row_top_k.cc"
#include "hwy/foreach_target.h"  // Compiles this file once for each target.
// After foreach_target.h:
#include "backend/device/cpu/top_k-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace {

size_t ScratchFor(size_t n) { return OrderedSize(n); }

void Choose(const float* scores, size_t n, size_t k, int32_t* ordered, uint64_t* chosen) {
  ChooseLargest(scores, n, k, ordered, chosen);
}

size_t First(const float* scores, size_t n) {
  const F32 d;
  const I32 di;
  const size_t lanes = hn::Lanes(d);
  auto highest = hn::Set(di, std::numeric_limits<int32_t>::min());
  for (size_t i = 0; i < n; i += lanes) {
    const auto v = Ordered(LoadPart(d, scores + i, n - i));
    highest =
        hn::Max(highest, i + lanes > n ? hn::IfThenElse(hn::FirstN(di, n - i), v, highest) : v);
  }
  const auto largest = hn::Set(di, hn::GetLane(hn::MaxOfLanes(di, highest)));
  for (size_t i = 0; i < n; i += lanes) {
    const auto equal = hn::Eq(Ordered(LoadPart(d, scores + i, n - i)), largest);
    const auto found = hn::FindFirstTrue(di, equal);
    if (found >= 0) return i + static_cast<size_t>(found);
  }
  return 0;
}

float Sum(const float* scores, size_t n, float largest) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const auto shift = hn::Set(d, largest);
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < n; i += lanes) {
    const auto x = hn::Sub(LoadPart(d, scores + i, n - i), shift);
    auto e = hn::IfThenElse(hn::IsNaN(x), x, ExpOf(x));
    if (i + lanes > n) e = hn::IfThenElseZero(hn::FirstN(d, n - i), e);
    sum = hn::Add(sum, e);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

}  // namespace
}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thresher {

HWY_EXPORT(ScratchFor);
HWY_EXPORT(Choose);
HWY_EXPORT(First);
HWY_EXPORT(Sum);

void RowTopK::operator()(std::span<const float> scores, int64_t k, uint64_t* chosen) {
  ordered_.Resize(HWY_DYNAMIC_DISPATCH(ScratchFor)(scores.size()));
  HWY_DYNAMIC_DISPATCH(Choose)
  (scores.data(), scores.size(), static_cast<size_t>(std::max<int64_t>(k, 0)), ordered_.data(),
   chosen);
}

int64_t FirstLargest(std::span<const float> scores) {
  return static_cast<int64_t>(HWY_DYNAMIC_DISPATCH(First)(scores.data(), scores.size()));
}

float SumOfExp(std::span<const float> scores, float largest) {
  return HWY_DYNAMIC_DISPATCH(Sum)(scores.data(), scores.size(), largest);
}

}  // namespace thresher
#endif  // HWY_ONCE
