// Random matrices and ragged batches for the device tests.
#ifndef THRESHER_TESTS_DEVICE_RANDOM_DATA_H_
#define THRESHER_TESTS_DEVICE_RANDOM_DATA_H_

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backend/device/device.h"
#include "backend/tensor/matrix.h"

namespace thresher::testing {

class RandomData {
 public:
  explicit RandomData(uint32_t seed) : engine_(seed) {}

  MatrixBuffer Normal(int64_t rows, int64_t cols, float deviation = 1.0f) {
    MatrixBuffer matrix(rows, cols);
    std::normal_distribution<float> normal(0.0f, deviation);
    for (int64_t r = 0; r < rows; ++r) {
      for (float& value : matrix.view().row_span(r)) value = normal(engine_);
    }
    return matrix;
  }

  int32_t Integer(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(engine_);
  }

  std::vector<int32_t> Integers(int64_t count, int32_t low, int32_t high) {
    std::vector<int32_t> values(static_cast<size_t>(count));
    for (int32_t& value : values) value = Integer(low, high);
    return values;
  }

 private:
  std::mt19937 engine_;
};

/// Offsets of sequences of these lengths.
inline std::vector<int32_t> Offsets(std::span<const int32_t> lengths) {
  std::vector<int32_t> offsets{0};
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

inline StoredMatrix Stored(ConstMatrix m) { return {DType::kF32, m.data, m.rows, m.cols}; }

inline constexpr Precision kPrecisions[] = {Precision::kF32, Precision::kBF16, Precision::kInt8};
inline constexpr Activation kActivations[] = {Activation::kNone,     Activation::kGelu,
                                              Activation::kGeluTanh, Activation::kRelu,
                                              Activation::kTanh,     Activation::kSilu};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_DEVICE_RANDOM_DATA_H_
