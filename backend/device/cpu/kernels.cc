#include "backend/device/cpu/kernels.h"

#include <algorithm>
#include <cmath>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/device/cpu/kernels.cc"
#include "hwy/foreach_target.h"  // Compiles this file once for each target.
// After foreach_target.h:
#include "backend/device/cpu/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace {

// ---- The end of a linear layer ----

/// Calls row(r, offset, lanes in use) for every vector of every row.
template <typename Body>
HWY_INLINE void ForEachVector(int64_t rows, int64_t cols, const Body& body) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(F32()));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < cols; i += lanes) body(r, i, std::min(lanes, cols - i));
  }
}

template <Activation activation>
void Finish(const float* acc, size_t stride, const float* bias, Matrix y) {
  const F32 d;
  ForEachVector(y.rows, y.cols, [&](int64_t r, int64_t i, int64_t n) HWY_ATTR {
    const auto sum = hn::Add(LoadPart(d, acc + r * stride + i, n), LoadPart(d, bias + i, n));
    StorePart(Activate<activation>(sum), d, y.row(r) + i, n);
  });
}

template <Activation activation>
void FinishQuantized(const int32_t* acc, size_t stride, const float* row_scales,
                     const float* col_scales, const float* bias, Matrix y) {
  const F32 d;
  const hn::RebindToSigned<F32> di;
  ForEachVector(y.rows, y.cols, [&](int64_t r, int64_t i, int64_t n) HWY_ATTR {
    const auto scale = hn::Mul(hn::Set(d, row_scales[r]), LoadPart(d, col_scales + i, n));
    const auto sum = hn::ConvertTo(d, LoadPart(di, acc + r * stride + i, n));
    StorePart(Activate<activation>(hn::MulAdd(sum, scale, LoadPart(d, bias + i, n))), d,
              y.row(r) + i, n);
  });
}

/// Calls finish.operator()<activation>().
template <typename F>
void WithActivation(Activation activation, const F& finish) {
  switch (activation) {
    case Activation::kNone:
      return finish.template operator()<Activation::kNone>();
    case Activation::kGelu:
      return finish.template operator()<Activation::kGelu>();
    case Activation::kGeluTanh:
      return finish.template operator()<Activation::kGeluTanh>();
    case Activation::kRelu:
      return finish.template operator()<Activation::kRelu>();
    case Activation::kTanh:
      return finish.template operator()<Activation::kTanh>();
    case Activation::kSilu:
      return finish.template operator()<Activation::kSilu>();
  }
}

void FinishRowsImpl(const float* acc, size_t stride, const float* bias, Activation activation,
                    Matrix y) {
  WithActivation(activation,
                 [&]<Activation kActivation>() { Finish<kActivation>(acc, stride, bias, y); });
}

void FinishQuantizedRowsImpl(const int32_t* acc, size_t stride, const float* row_scales,
                             const float* col_scales, const float* bias, Activation activation,
                             Matrix y) {
  WithActivation(activation, [&]<Activation kActivation>() {
    FinishQuantized<kActivation>(acc, stride, row_scales, col_scales, bias, y);
  });
}

// ---- The beginning of one ----

/// Float bits rounded to the nearest bfloat16, ties to even, in the upper half; NaN made quiet.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<F32>> RoundToBF16(VF32 v) {
  const hn::RebindToUnsigned<F32> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
  const auto nan = hn::RebindMask(du, hn::Ne(v, v));
  return hn::And(hn::IfThenElse(nan, hn::Or(bits, hn::Set(du, 0x400000)), rounded),
                 hn::Set(du, 0xffff0000u));
}

void RoundRowsToBF16Impl(ConstMatrix x, int64_t out_cols, float* out) {
  const F32 d;
  ForEachVector(x.rows, x.cols, [&](int64_t r, int64_t i, int64_t n) HWY_ATTR {
    const auto rounded = hn::BitCast(d, RoundToBF16(LoadPart(d, x.row(r) + i, n)));
    StorePart(rounded, d, out + r * out_cols + i, n);
  });
}

void ConvertRowsToBF16Impl(ConstMatrix x, int64_t out_cols, uint16_t* out) {
  const F32 d;
  const hn::RebindToSigned<F32> di;
  const hn::Rebind<uint16_t, F32> half;
  ForEachVector(x.rows, x.cols, [&](int64_t r, int64_t i, int64_t n) HWY_ATTR {
    const auto upper = hn::ShiftRight<16>(RoundToBF16(LoadPart(d, x.row(r) + i, n)));
    StorePart(hn::DemoteTo(half, hn::BitCast(di, upper)), half, out + r * out_cols + i, n);
  });
}

template <typename T>
void Quantize(ConstMatrix x, float limit, int64_t out_cols, T* out, float* scales) {
  const F32 d;
  const hn::Rebind<T, F32> narrow;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < x.rows; ++r) {
    auto largest = hn::Zero(d);
    for (int64_t i = 0; i < x.cols; i += lanes) {
      largest = hn::Max(hn::Abs(LoadPart(d, x.row(r) + i, std::min(lanes, x.cols - i))), largest);
    }
    const float magnitude = hn::GetLane(hn::MaxOfLanes(d, largest));
    // A row of (nearly) nothing would make the factor infinite.
    const bool any = magnitude > 1e-30f;
    const auto factor = hn::Set(d, any ? limit / magnitude : 0.0f);
    for (int64_t i = 0; i < x.cols; i += lanes) {
      const int64_t n = std::min(lanes, x.cols - i);
      auto q = hn::NearestInt(hn::Mul(LoadPart(d, x.row(r) + i, n), factor));
      if constexpr (std::is_same_v<T, uint8_t>) {
        q = hn::Add(q, hn::Set(hn::RebindToSigned<F32>(), 128));
      }
      StorePart(hn::DemoteTo(narrow, q), narrow, out + r * out_cols + i, n);
    }
    scales[r] = any ? magnitude / limit : 0.0f;
  }
}
void QuantizeRowsS8(ConstMatrix x, float limit, int64_t out_cols, int8_t* out, float* scales) {
  Quantize(x, limit, out_cols, out, scales);
}
void QuantizeRowsS16(ConstMatrix x, float limit, int64_t out_cols, int16_t* out, float* scales) {
  Quantize(x, limit, out_cols, out, scales);
}

void QuantizeRowsU8(ConstMatrix x, float limit, int64_t out_cols, uint8_t* out, float* scales) {
  Quantize(x, limit, out_cols, out, scales);
}

// ---- The rest of a layer ----

HWY_INLINE float SumOf(VF32 v) {
  const F32 d;
  return hn::GetLane(hn::SumOfLanes(d, v));
}

void LayerNormRowsImpl(ConstMatrix x, ConstMatrix residual, const float* gamma, const float* beta,
                       float epsilon, Matrix y) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t cols = x.cols;
  for (int64_t r = 0; r < x.rows; ++r) {
    float* z = y.row(r);  // May be x's row or the residual's: each element is read before written.
    // Two sums by turns, to keep the chain of additions short.
    auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
    for (int64_t i = 0; i < cols; i += lanes) {
      const int64_t n = std::min(lanes, cols - i);
      auto v = LoadPart(d, x.row(r) + i, n);
      if (residual.data != nullptr) v = hn::Add(v, LoadPart(d, residual.row(r) + i, n));
      StorePart(v, d, z + i, n);
      sum1 = hn::Add(sum1, v);
      std::swap(sum0, sum1);
    }
    const auto mean = hn::Set(d, SumOf(hn::Add(sum0, sum1)) / static_cast<float>(cols));
    auto squares0 = hn::Zero(d), squares1 = hn::Zero(d);
    for (int64_t i = 0; i < cols; i += lanes) {
      const int64_t n = std::min(lanes, cols - i);
      // Lanes beyond the row must add nothing.
      const auto deviation = n == lanes ? hn::Sub(hn::LoadU(d, z + i), mean)
                                        : hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(n)),
                                                             hn::Sub(LoadPart(d, z + i, n), mean));
      squares1 = hn::MulAdd(deviation, deviation, squares1);
      std::swap(squares0, squares1);
    }
    const float variance = SumOf(hn::Add(squares0, squares1)) / static_cast<float>(cols);
    const auto scale = hn::Set(d, 1.0f / std::sqrt(variance + epsilon));
    for (int64_t i = 0; i < cols; i += lanes) {
      const int64_t n = std::min(lanes, cols - i);
      const auto unit = hn::Mul(hn::Sub(LoadPart(d, z + i, n), mean), scale);
      StorePart(hn::MulAdd(unit, LoadPart(d, gamma + i, n), LoadPart(d, beta + i, n)), d, z + i, n);
    }
  }
}

void RmsNormRowsImpl(ConstMatrix x, const float* gamma, float epsilon, Matrix y) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t cols = x.cols;
  for (int64_t r = 0; r < x.rows; ++r) {
    // Two sums by turns, to keep the chain of additions short.
    auto squares0 = hn::Zero(d), squares1 = hn::Zero(d);
    for (int64_t i = 0; i < cols; i += lanes) {
      const auto v = LoadPart(d, x.row(r) + i, std::min(lanes, cols - i));
      squares1 = hn::MulAdd(v, v, squares1);
      std::swap(squares0, squares1);
    }
    const float mean = SumOf(hn::Add(squares0, squares1)) / static_cast<float>(cols);
    const auto scale = hn::Set(d, 1.0f / std::sqrt(mean + epsilon));
    for (int64_t i = 0; i < cols; i += lanes) {
      const int64_t n = std::min(lanes, cols - i);
      const auto unit = hn::Mul(LoadPart(d, x.row(r) + i, n), scale);
      StorePart(hn::Mul(unit, LoadPart(d, gamma + i, n)), d, y.row(r) + i, n);
    }
  }
}

void MultiplyRowImpl(const float* x, size_t cols, float* y) {
  const F32 d;
  const auto lanes = hn::Lanes(d);
  for (size_t i = 0; i < cols; i += lanes) {
    const size_t n = std::min(lanes, cols - i);
    StorePart(hn::Mul(LoadPart(d, y + i, n), LoadPart(d, x + i, n)), d, y + i, n);
  }
}

void AddRowImpl(const float* x, size_t cols, float* y) {
  const F32 d;
  const auto lanes = hn::Lanes(d);
  for (size_t i = 0; i < cols; i += lanes) {
    const size_t n = std::min(lanes, cols - i);
    StorePart(hn::Add(LoadPart(d, y + i, n), LoadPart(d, x + i, n)), d, y + i, n);
  }
}

void ScaleRowImpl(float factor, size_t cols, float* y) {
  const F32 d;
  const auto lanes = hn::Lanes(d);
  for (size_t i = 0; i < cols; i += lanes) {
    const size_t n = std::min(lanes, cols - i);
    StorePart(hn::Mul(hn::Set(d, factor), LoadPart(d, y + i, n)), d, y + i, n);
  }
}

const char* KernelTargetImpl() { return hwy::TargetName(HWY_TARGET); }

}  // namespace
}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thresher {

HWY_EXPORT(FinishRowsImpl);
HWY_EXPORT(FinishQuantizedRowsImpl);
HWY_EXPORT(RoundRowsToBF16Impl);
HWY_EXPORT(ConvertRowsToBF16Impl);
HWY_EXPORT(QuantizeRowsS8);
HWY_EXPORT(QuantizeRowsS16);
HWY_EXPORT(QuantizeRowsU8);
HWY_EXPORT(LayerNormRowsImpl);
HWY_EXPORT(RmsNormRowsImpl);
HWY_EXPORT(AddRowImpl);
HWY_EXPORT(MultiplyRowImpl);
HWY_EXPORT(ScaleRowImpl);
HWY_EXPORT(KernelTargetImpl);

namespace {
template <typename T>
void ZeroPadding(int64_t rows, int64_t cols, int64_t out_cols, T* out, T zero = T{}) {
  for (int64_t r = 0; r < rows; ++r) std::fill_n(out + r * out_cols + cols, out_cols - cols, zero);
}
}  // namespace

void FinishRows(const float* accumulators, size_t stride, const float* bias, Activation activation,
                Matrix y) {
  HWY_DYNAMIC_DISPATCH(FinishRowsImpl)(accumulators, stride, bias, activation, y);
}

void FinishQuantizedRows(const int32_t* accumulators, size_t stride, const float* row_scales,
                         const float* col_scales, const float* bias, Activation activation,
                         Matrix y) {
  HWY_DYNAMIC_DISPATCH(FinishQuantizedRowsImpl)
  (accumulators, stride, row_scales, col_scales, bias, activation, y);
}

void CopyRows(ConstMatrix x, int64_t out_cols, float* out) {
  for (int64_t r = 0; r < x.rows; ++r) std::copy_n(x.row(r), x.cols, out + r * out_cols);
  ZeroPadding(x.rows, x.cols, out_cols, out);
}

void RoundRowsToBF16(ConstMatrix x, int64_t out_cols, float* out) {
  HWY_DYNAMIC_DISPATCH(RoundRowsToBF16Impl)(x, out_cols, out);
  ZeroPadding(x.rows, x.cols, out_cols, out);
}

void ConvertRowsToBF16(ConstMatrix x, int64_t out_cols, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(ConvertRowsToBF16Impl)(x, out_cols, out);
  ZeroPadding(x.rows, x.cols, out_cols, out);
}

void QuantizeRows(ConstMatrix x, float limit, int64_t out_cols, int8_t* out, float* scales) {
  HWY_DYNAMIC_DISPATCH(QuantizeRowsS8)(x, limit, out_cols, out, scales);
  ZeroPadding(x.rows, x.cols, out_cols, out);
}

void QuantizeRows(ConstMatrix x, float limit, int64_t out_cols, int16_t* out, float* scales) {
  HWY_DYNAMIC_DISPATCH(QuantizeRowsS16)(x, limit, out_cols, out, scales);
  ZeroPadding(x.rows, x.cols, out_cols, out);
}

void QuantizeRows(ConstMatrix x, float limit, int64_t out_cols, uint8_t* out, float* scales) {
  HWY_DYNAMIC_DISPATCH(QuantizeRowsU8)(x, limit, out_cols, out, scales);
  ZeroPadding(x.rows, x.cols, out_cols, out, uint8_t{128});
}

void LayerNormRows(ConstMatrix x, ConstMatrix residual, const float* gamma, const float* beta,
                   float epsilon, Matrix y) {
  HWY_DYNAMIC_DISPATCH(LayerNormRowsImpl)(x, residual, gamma, beta, epsilon, y);
}

void RmsNormRows(ConstMatrix x, const float* gamma, float epsilon, Matrix y) {
  HWY_DYNAMIC_DISPATCH(RmsNormRowsImpl)(x, gamma, epsilon, y);
}

void AddRow(const float* x, size_t cols, float* y) { HWY_DYNAMIC_DISPATCH(AddRowImpl)(x, cols, y); }

void MultiplyRow(const float* x, size_t cols, float* y) {
  HWY_DYNAMIC_DISPATCH(MultiplyRowImpl)(x, cols, y);
}

void ScaleRow(float factor, size_t cols, float* y) {
  HWY_DYNAMIC_DISPATCH(ScaleRowImpl)(factor, cols, y);
}

const char* KernelTarget() { return HWY_DYNAMIC_DISPATCH(KernelTargetImpl)(); }

}  // namespace thresher
#endif  // HWY_ONCE
