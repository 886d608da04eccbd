// The elementwise and row kernels of the cpu device, by Highway: each call works on a few rows, on
// one thread, in whatever instruction set the processor has. Rows of `stride` elements.
#ifndef THRESHER_BACKEND_DEVICE_CPU_KERNELS_H_
#define THRESHER_BACKEND_DEVICE_CPU_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "backend/device/device.h"
#include "backend/tensor/matrix.h"

namespace thresher {

// ---- The end of a linear layer: y = activation(accumulator + bias). ----
//
// Activations are within 4e-7 * max(1, |x|) of the exact function. `bias` and `col_scales` hold
// y.cols values; accumulator rows are `stride` elements apart.

void FinishRows(const float* accumulators, size_t stride, const float* bias, Activation activation,
                Matrix y);
/// Accumulators of int8 products: first times row_scales[row] * col_scales[col].
void FinishQuantizedRows(const int32_t* accumulators, size_t stride, const float* row_scales,
                         const float* col_scales, const float* bias, Activation activation,
                         Matrix y);

// ---- The beginning of one: rows converted to what the product reads. ----
//
// Output rows are `out_cols` >= x.cols elements, contiguous, zero beyond x.cols.

void CopyRows(ConstMatrix x, int64_t out_cols, float* out);
void RoundRowsToBF16(ConstMatrix x, int64_t out_cols, float* out);
void ConvertRowsToBF16(ConstMatrix x, int64_t out_cols, uint16_t* out);
/// Symmetric by row: x[row] is about scales[row] * out, |out| <= limit.
void QuantizeRows(ConstMatrix x, float limit, int64_t out_cols, int8_t* out, float* scales);
void QuantizeRows(ConstMatrix x, float limit, int64_t out_cols, int16_t* out, float* scales);
/// The same + 128.
void QuantizeRows(ConstMatrix x, float limit, int64_t out_cols, uint8_t* out, float* scales);

// ---- The rest of a layer. ----

/// As Device::LayerNorm, over the rows of y.
void LayerNormRows(ConstMatrix x, ConstMatrix residual, const float* gamma, const float* beta,
                   float epsilon, Matrix y);
/// As Device::RmsNorm, over the rows of y.
void RmsNormRows(ConstMatrix x, const float* gamma, float epsilon, Matrix y);
/// y += x, and y *= x, element by element.
void AddRow(const float* x, size_t cols, float* y);
void MultiplyRow(const float* x, size_t cols, float* y);
/// y *= factor.
void ScaleRow(float factor, size_t cols, float* y);

/// The instruction set the kernels use here: "AVX2", "AVX3", ...
const char* KernelTarget();

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_KERNELS_H_
