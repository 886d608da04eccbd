// Rows of attention as a bfloat16 unit (dot_unit.h) reads them. Rounded to nearest, ties to even;
// what is subnormal becomes zero. Only where BFloat16DotUnit() is not null.
#ifndef THRESHER_BACKEND_DEVICE_CPU_BF16_PACK_H_
#define THRESHER_BACKEND_DEVICE_CPU_BF16_PACK_H_

#include <cstddef>
#include <cstdint>

#include "backend/tensor/matrix.h"

namespace thresher {

/// Dimensions of a head are a multiple of this, and keys are padded to one: whole tiles of columns,
/// and whole steps of K, of every unit.
inline constexpr size_t kBF16Step = 32;

/// `rows` rows of `cols`, a multiple of kBF16Step, `stride` floats apart, to `out`, contiguous.
void PackRowsBF16(const float* rows, size_t stride, size_t count, size_t cols, uint16_t* out);

/// K^T: for each kBF16Step keys a tile [dim / 2][kBF16Step][2]. Keys beyond the last are zero.
void PackKeysBF16(ConstMatrix key, uint16_t* out);

/// V: for each kBF16Step dimensions a tile [keys / 2][kBF16Step][2], of keys padded with zeros.
/// Rows whose bit of `wanted` (unless null) is not set are zero too, and are not read.
void PackValuesBF16(ConstMatrix value, const uint64_t* wanted, uint16_t* out);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_BF16_PACK_H_
