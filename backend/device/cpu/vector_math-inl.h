// Vector helpers shared by the kernels, for Highway's current target (included once for each):
// loads and stores of the last few elements of a row, and activations.
#if defined(THRESHER_DEVICE_CPU_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef THRESHER_DEVICE_CPU_VECTOR_MATH_INL_H_
#undef THRESHER_DEVICE_CPU_VECTOR_MATH_INL_H_
#else
#define THRESHER_DEVICE_CPU_VECTOR_MATH_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "backend/device/device.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using VF32 = hn::Vec<F32>;

/// The first `count` lanes from memory, the rest zero. Reads nothing beyond.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadPart(D d, const T* from, size_t count) {
  if (count >= hn::Lanes(d)) return hn::LoadU(d, from);
  HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(T)] = {};
  std::copy_n(from, count, lanes);
  return hn::Load(d, lanes);
}

/// Stores the first `count` lanes and writes nothing beyond.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE void StorePart(hn::Vec<D> v, D d, T* to, size_t count) {
  if (count >= hn::Lanes(d)) {
    hn::StoreU(v, d, to);
    return;
  }
  HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(T)];
  hn::Store(v, d, lanes);
  std::copy_n(lanes, count, to);
}

/// e^x within 1 ulp; 0 below about -104. `x` is at most 88 here, to stay finite.
HWY_INLINE VF32 ExpOf(VF32 x) {
  const F32 d;
  return hn::Exp(d, hn::Min(x, hn::Set(d, 88.0f)));
}

/// 2^x for x <= 0 (or hardly more), within 2 ulp, and 1 for 0; 0 below -126.5; NaN stays. A minimax
/// polynomial of degree 6 on [-0.5, 0.5], whose own error is 2e-9, times a whole power.
HWY_INLINE VF32 Exp2Of(VF32 x) {
  const F32 d;
  const hn::RebindToUnsigned<F32> du;
  // In this order x86's maximum keeps a NaN of x.
  const auto clamped = hn::Max(hn::Set(d, -127.0f), x);
  // Added to 3 * 2^22, the whole part is in the lowest bits; with 127 more it is an exponent.
  const auto shift = hn::Set(d, 12582912.0f + 127.0f);
  const auto shifted = hn::Add(clamped, shift);
  const auto f = hn::Sub(clamped, hn::Sub(shifted, shift));
  auto p = hn::Set(d, 1.5345811990e-04f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.3399931219e-03f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.6184889572e-03f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.5503287770e-02f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.4022646891e-01f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.9314720574e-01f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(du, shifted))));
}

/// 1 / (1 + e^-x)
HWY_INLINE VF32 Sigmoid(VF32 x) {
  const F32 d;
  const auto one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, ExpOf(hn::Neg(x))));
}

/// x * Phi(x). With a = |x|, erfc(a / sqrt 2) = 2^(g(a) - a^2 / (2 ln 2)), where g, the logarithm
/// of the scaled complementary error function, is nearly straight: a minimax polynomial of degree 9
/// on [0, 5.5] leaves an error of 1e-8 in the result (beyond, erfc itself is less than 4e-8).
HWY_INLINE VF32 Gelu(VF32 x) {
  const F32 d;
  const auto a = hn::Abs(x);
  const auto t = hn::Min(a, hn::Set(d, 5.5f));
  auto g = hn::Set(d, 1.7683867641e-07f);
  g = hn::MulAdd(g, t, hn::Set(d, -4.2305498879e-06f));
  g = hn::MulAdd(g, t, hn::Set(d, 4.0282532480e-05f));
  g = hn::MulAdd(g, t, hn::Set(d, -1.6438252717e-04f));
  g = hn::MulAdd(g, t, hn::Set(d, -2.2360410847e-04f));
  g = hn::MulAdd(g, t, hn::Set(d, 7.2071042953e-03f));
  g = hn::MulAdd(g, t, hn::Set(d, -5.2613163654e-02f));
  g = hn::MulAdd(g, t, hn::Set(d, 2.6218370313e-01f));
  g = hn::MulAdd(g, t, hn::Set(d, -1.1511111831e+00f));
  const auto exponent = hn::MulAdd(hn::Mul(a, a), hn::Set(d, -0.7213475204f), hn::Mul(g, t));
  const auto tail = hn::Mul(hn::Set(d, 0.5f), Exp2Of(exponent));  // Phi(-a)
  const auto phi = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 1.0f), tail));
  return hn::Mul(x, phi);
}

/// 0.5 x (1 + tanh(u)) = x * sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
HWY_INLINE VF32 GeluTanh(VF32 x) {
  const F32 d;
  const auto cubic = hn::MulAdd(hn::Mul(x, x), hn::Set(d, 0.044715f), hn::Set(d, 1.0f));
  const auto u2 = hn::Mul(hn::Mul(x, hn::Set(d, 1.5957691216057308f)), cubic);
  return hn::Mul(x, Sigmoid(u2));
}

template <Activation activation>
HWY_INLINE VF32 Activate(VF32 x) {
  const F32 d;
  if constexpr (activation == Activation::kGelu) {
    return Gelu(x);
  } else if constexpr (activation == Activation::kGeluTanh) {
    return GeluTanh(x);
  } else if constexpr (activation == Activation::kRelu) {
    return hn::Max(x, hn::Zero(d));
  } else if constexpr (activation == Activation::kTanh) {
    return hn::Tanh(d, x);
  } else if constexpr (activation == Activation::kSilu) {
    return hn::Mul(x, Sigmoid(x));
  } else {
    return x;
  }
}

}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // THRESHER_DEVICE_CPU_VECTOR_MATH_INL_H_
