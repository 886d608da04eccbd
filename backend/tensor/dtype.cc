#include "backend/tensor/dtype.h"

#include <cstring>

namespace thresher {

size_t ElementSize(DType type) {
  switch (type) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
      return 2;
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return 1;
  }
  return 0;
}

std::string_view Name(DType type) {
  switch (type) {
    case DType::kF64:
      return "F64";
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kI16:
      return "I16";
    case DType::kI8:
      return "I8";
    case DType::kU8:
      return "U8";
    case DType::kBool:
      return "BOOL";
  }
  return "?";
}

float FromF16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) {  // Infinity and NaN keep their payload.
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  }
  if (exponent == 0) {  // Zero and subnormals: mantissa x 2^-24, exact in float.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

namespace {
// Checkpoints promise no alignment, so elements are read through memcpy, sixteen at a time: of a
// loop of known length the compiler makes vectors.
template <typename Stored, typename Convert>
void ConvertAll(const void* source, size_t count, float* destination, Convert convert) {
  constexpr size_t kBlock = 16;
  const auto* bytes = static_cast<const unsigned char*>(source);
  Stored elements[kBlock];
  size_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    std::memcpy(elements, bytes + i * sizeof(Stored), sizeof(elements));
    for (size_t j = 0; j < kBlock; ++j) destination[i + j] = convert(elements[j]);
  }
  std::memcpy(elements, bytes + i * sizeof(Stored), (count - i) * sizeof(Stored));
  for (size_t j = 0; i + j < count; ++j) destination[i + j] = convert(elements[j]);
}
}  // namespace

void ToFloat(DType type, const void* source, size_t count, float* destination) {
  switch (type) {
    case DType::kF32:
      if (count > 0) std::memcpy(destination, source, count * sizeof(float));
      break;
    case DType::kBF16:
      ConvertAll<uint16_t>(source, count, destination, [](uint16_t v) { return FromBF16(v); });
      break;
    case DType::kF16:
      ConvertAll<uint16_t>(source, count, destination, [](uint16_t v) { return FromF16(v); });
      break;
    case DType::kF64:
      ConvertAll<double>(source, count, destination,
                         [](double v) { return static_cast<float>(v); });
      break;
    default:
      break;
  }
}

}  // namespace thresher
