// Element types of checkpoints and of computation, and conversions between them.
#ifndef THRESHER_BACKEND_TENSOR_DTYPE_H_
#define THRESHER_BACKEND_TENSOR_DTYPE_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace thresher {

/// Element type of a stored tensor. Names are those of safetensors.
enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

/// Bytes of one element.
size_t ElementSize(DType type);
/// "F32", "BF16", ...
std::string_view Name(DType type);

/// bfloat16: the upper half of a float.
inline float FromBF16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
/// To the nearest bfloat16, ties to even; NaN stays NaN (quiet).
inline uint16_t ToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
/// IEEE binary16 to float, exact, subnormals included.
float FromF16(uint16_t bits);

/// Converts `count` floating elements of `type` at `source` (any alignment) to float.
/// `type` must be kF64, kF32, kF16 or kBF16.
void ToFloat(DType type, const void* source, size_t count, float* destination);

}  // namespace thresher

#endif  // THRESHER_BACKEND_TENSOR_DTYPE_H_
