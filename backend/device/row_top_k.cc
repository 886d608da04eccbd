#include "backend/device/row_top_k.h"

#include <algorithm>

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

float Sum(const float* scores, size_t n, const uint64_t* chosen, float largest) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const auto shift = hn::Set(d, largest);
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < n; i += lanes) {
    const uint64_t bits = chosen[i / 64] >> (i % 64);
    const auto x = hn::Sub(LoadPart(d, scores + i, n - i), shift);
    const auto e = hn::IfThenElse(hn::IsNaN(x), x, ExpOf(x));
    const auto mask = hn::LoadMaskBits(d, reinterpret_cast<const uint8_t*>(&bits));
    sum = hn::Add(sum, hn::IfThenElseZero(mask, e));
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
HWY_EXPORT(Sum);

void RowTopK::operator()(std::span<const float> scores, int64_t k, uint64_t* chosen) {
  ordered_.Resize(HWY_DYNAMIC_DISPATCH(ScratchFor)(scores.size()));
  HWY_DYNAMIC_DISPATCH(Choose)
  (scores.data(), scores.size(), static_cast<size_t>(std::max<int64_t>(k, 0)), ordered_.data(),
   chosen);
}

float SumOfExp(std::span<const float> scores, const uint64_t* chosen, float largest) {
  return HWY_DYNAMIC_DISPATCH(Sum)(scores.data(), scores.size(), chosen, largest);
}

}  // namespace thresher
#endif  // HWY_ONCE
