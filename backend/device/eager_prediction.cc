#include "backend/device/eager_prediction.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

namespace thresher {
namespace {

/// Sign and leading one of a quantised value.
int8_t LeadingOne(int32_t value) {
  if (value == 0) return 0;
  const auto power = static_cast<int8_t>(std::bit_floor(static_cast<uint32_t>(std::abs(value))));
  return value < 0 ? static_cast<int8_t>(-power) : power;
}

float LargestMagnitude(std::span<const float> values) {
  float largest = 0.0f;
  for (const float value : values) {
    if (!std::isfinite(value)) return 0.0f;
    largest = std::max(largest, std::abs(value));
  }
  return largest;
}

std::span<const int8_t> Group(const LeadingOneMatrix& m, int64_t row, int64_t group) {
  return {m.row(row) + group * m.group, static_cast<size_t>(m.group)};
}

}  // namespace

LeadingOneMatrix EncodeLeadingOne(ConstMatrix x, int32_t bits, int64_t group) {
  LeadingOneMatrix out{.rows = x.rows, .cols = x.cols, .group = group};
  out.codes.resize(static_cast<size_t>(x.rows * x.cols));
  const auto limit = static_cast<float>((1 << (bits - 1)) - 1);
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t begin = 0; begin < x.cols; begin += group) {
      const std::span<const float> values(x.row(i) + begin, static_cast<size_t>(group));
      const float largest = LargestMagnitude(values);
      out.scales.push_back(largest / limit);
      if (largest == 0.0f) continue;
      for (int64_t j = 0; j < group; ++j) {
        // Divided by the largest first: its quotient by `limit` may underflow, this can't.
        const float quantised = std::nearbyint(values[j] / largest * limit);
        out.codes[i * x.cols + begin + j] = LeadingOne(static_cast<int32_t>(quantised));
      }
    }
  }
  return out;
}

void PredictProjection(const LeadingOneMatrix& x, const LeadingOneMatrix& w,
                       std::span<const float> bias, Matrix y) {
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t o = 0; o < w.rows; ++o) {
      const float sum = FloatDot(Group(x, i, 0), Group(w, o, 0));
      y.row(i)[o] = sum * (kMantissaCorrection * x.scale(i, 0) * w.scale(o, 0)) +
                    (bias.empty() ? 0.0f : bias[o]);
    }
  }
}

void PredictScores(const LeadingOneMatrix& q, int64_t q_group, const LeadingOneMatrix& k,
                   int64_t k_group, float scale, Matrix y) {
  for (int64_t i = 0; i < q.rows; ++i) {
    for (int64_t j = 0; j < k.rows; ++j) {
      const float sum = FloatDot(Group(q, i, q_group), Group(k, j, k_group));
      y.row(i)[j] = sum * (kMantissaCorrection * scale * q.scale(i, q_group) * k.scale(j, k_group));
    }
  }
}

int64_t AddOnlyDot(std::span<const int8_t> a, std::span<const int8_t> b) {
  int64_t sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == 0 || b[i] == 0) continue;
    const int exponent = std::countr_zero(static_cast<uint32_t>(std::abs(a[i]))) +
                         std::countr_zero(static_cast<uint32_t>(std::abs(b[i])));
    const int64_t term = int64_t{1} << exponent;
    sum += (a[i] < 0) == (b[i] < 0) ? term : -term;
  }
  return sum;
}

float FloatDot(std::span<const int8_t> a, std::span<const int8_t> b) {
  float sum = 0.0f;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<float>(a[i]) * static_cast<float>(b[i]);
  return sum;
}

}  // namespace thresher
