#include "backend/device/vector_codes.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

namespace thresher {
namespace {

/// In [0, 1), the same on every platform.
double Uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

/// Nearly normal, which is enough for a direction.
double Normal(std::mt19937_64& random) {
  double sum = -6.0;
  for (int i = 0; i < 12; ++i) sum += Uniform(random);
  return sum;
}

SquareMatrix Orthogonal(int32_t dim, std::mt19937_64& random) {
  const auto n = static_cast<size_t>(dim);
  std::vector<double> rows(n * n);
  for (size_t i = 0; i < n; ++i) {
    double* const row = rows.data() + i * n;
    double length = 0.0;
    while (length < 1e-3) {  // Drawn again if it lies in the space of those before.
      for (size_t j = 0; j < n; ++j) row[j] = Normal(random);
      for (size_t before = 0; before < i; ++before) {
        const double* const other = rows.data() + before * n;
        const double along = std::inner_product(row, row + n, other, 0.0);
        for (size_t j = 0; j < n; ++j) row[j] -= along * other[j];
      }
      length = std::sqrt(std::inner_product(row, row + n, row, 0.0));
    }
    for (size_t j = 0; j < n; ++j) row[j] /= length;
  }
  return {dim, std::vector<float>(rows.begin(), rows.end())};
}

/// x = (F_1 (x) F_2 (x) ...) x: each factor along its own axis of x as a tensor.
void MultiplyKronecker(std::span<const SquareMatrix> factors, std::span<float> x,
                       std::vector<float>& memory) {
  size_t inner = x.size();
  for (const SquareMatrix& factor : factors) {
    const auto dim = static_cast<size_t>(factor.dim);
    inner /= dim;
    memory.assign(x.begin(), x.end());
    for (size_t outer = 0; outer < x.size(); outer += dim * inner) {
      for (size_t i = 0; i < dim; ++i) {
        float* const to = x.data() + outer + i * inner;
        std::fill_n(to, inner, 0.0f);
        for (size_t j = 0; j < dim; ++j) {
          const float weight = factor.values[i * dim + j];
          const float* const from = memory.data() + outer + j * inner;
          for (size_t k = 0; k < inner; ++k) to[k] += weight * from[k];
        }
      }
    }
  }
}

/// 0 if some value is not finite.
float LargestMagnitude(std::span<const float> values) {
  float largest = 0.0f;
  for (const float value : values) {
    if (!std::isfinite(value)) return 0.0f;
    largest = std::max(largest, std::abs(value));
  }
  return largest;
}

}  // namespace

std::vector<float> TernaryProjection(int64_t rows, int64_t width, uint32_t seed) {
  std::mt19937_64 random(seed);
  const auto magnitude = static_cast<float>(std::sqrt(3.0 / static_cast<double>(width)));
  std::vector<float> matrix(static_cast<size_t>(rows * width));
  for (float& value : matrix) {
    const uint64_t face = random() % 6;
    value = face == 0 ? magnitude : face == 1 ? -magnitude : 0.0f;
  }
  return matrix;
}

std::vector<SquareMatrix> OrthogonalFactors(int32_t dim, uint32_t seed) {
  std::mt19937_64 random(seed);
  std::vector<SquareMatrix> factors;
  const auto take = [&](int32_t factor) {
    for (; dim % factor == 0 && dim > 1; dim /= factor) {
      factors.push_back(Orthogonal(factor, random));
    }
  };
  take(4);
  for (int32_t factor = 2; factor * factor <= dim; ++factor) take(factor);
  if (dim > 1) take(dim);  // What is left is prime.
  return factors;
}

std::vector<float> PrincipalComponents(std::span<const double> matrix, int32_t dim) {
  const auto n = static_cast<size_t>(dim);
  std::vector<double> a(matrix.begin(), matrix.end());
  std::vector<double> vectors(n * n, 0.0);  // Columns.
  for (size_t i = 0; i < n; ++i) vectors[i * n + i] = 1.0;
  const auto rotate = [n](std::vector<double>& m, size_t p, size_t q, size_t step_i, size_t step_pq,
                          double c, double s) {
    for (size_t i = 0; i < n; ++i) {
      double& x = m[i * step_i + p * step_pq];
      double& y = m[i * step_i + q * step_pq];
      const double was = x;
      x = c * was - s * y;
      y = s * was + c * y;
    }
  };
  // Jacobi: each rotation makes one element off the diagonal zero.
  constexpr int kMostSweeps = 30;
  for (int sweep = 0; sweep < kMostSweeps; ++sweep) {
    double off = 0.0;
    double all = 0.0;
    for (size_t i = 0; i < n * n; ++i) {
      all += a[i] * a[i];
      if (i / n != i % n) off += a[i] * a[i];
    }
    if (!(off > all * 1e-24)) break;
    for (size_t p = 0; p + 1 < n; ++p) {
      for (size_t q = p + 1; q < n; ++q) {
        if (a[p * n + q] == 0.0) continue;
        const double theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
        const double t =
            std::copysign(1.0, theta) / (std::abs(theta) + std::sqrt(theta * theta + 1.0));
        const double c = 1.0 / std::sqrt(t * t + 1.0);
        rotate(a, p, q, 1, n, c, t * c);
        rotate(a, p, q, n, 1, c, t * c);
        rotate(vectors, p, q, n, 1, c, t * c);
      }
    }
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::ranges::greater(), [&](size_t i) { return a[i * n + i]; });
  std::vector<float> sorted(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      sorted[i * n + j] = static_cast<float>(vectors[i * n + order[j]]);
    }
  }
  return sorted;
}

VectorCodes VectorCodes::Integers(int32_t head_dim, int32_t bits) {
  VectorCodes codes;
  codes.head_dim_ = codes.width_ = head_dim;
  codes.bits_ = bits;
  return codes;
}

VectorCodes VectorCodes::Signs(int32_t head_dim, int32_t width) {
  constexpr uint32_t kSeed = 1;
  VectorCodes codes;
  codes.head_dim_ = head_dim;
  codes.width_ = width;
  codes.factors_ = OrthogonalFactors(head_dim, kSeed);
  return codes;
}

VectorCodes VectorCodes::Projection(int32_t head_dim, int32_t width, int32_t bits,
                                    std::vector<float> matrices) {
  VectorCodes codes;
  codes.head_dim_ = head_dim;
  codes.width_ = width;
  codes.bits_ = bits;
  codes.matrices_ = std::move(matrices);
  return codes;
}

int64_t VectorCodes::heads() const {
  const int64_t one = int64_t{head_dim_} * width_;
  const auto all = static_cast<int64_t>(matrices_.size());
  return all > one ? all / one : 0;
}

void VectorCodes::Encode(ConstMatrix x, std::span<const float> center, int64_t first, int64_t count,
                         Matrix codes, Matrix scales) const {
  const auto dim = static_cast<size_t>(head_dim_);
  const auto width = static_cast<size_t>(width_);
  const bool by_head = heads() > 0;
  std::vector<float> part(dim);
  std::vector<float> projected(width);
  std::vector<float> memory;
  for (int64_t i = first; i < first + count; ++i) {
    for (int64_t h = 0; h < scales.cols; ++h) {
      const size_t column = static_cast<size_t>(h) * dim;
      std::copy_n(x.row(i) + column, dim, part.begin());
      if (!center.empty()) {
        for (size_t d = 0; d < dim; ++d) part[d] -= center[column + d];
      }
      float* const out = codes.row(i) + static_cast<size_t>(h) * width;
      float& scale = scales.row(i)[h];
      scale = 0.0f;
      std::fill_n(out, width, 0.0f);
      if (bits_ == 0) {
        if (LargestMagnitude(part) == 0.0f) continue;
        scale = 1.0f;
        MultiplyKronecker(factors_, part, memory);
        for (size_t o = 0; o < width; ++o) out[o] = part[o] < 0.0f ? -1.0f : 1.0f;
        continue;
      }
      std::span<const float> values = part;
      if (!matrices_.empty()) {
        const float* const matrix = matrices_.data() + (by_head ? column * width : 0);
        std::ranges::fill(projected, 0.0f);
        for (size_t d = 0; d < dim; ++d) {
          for (size_t o = 0; o < width; ++o) projected[o] += part[d] * matrix[d * width + o];
        }
        values = projected;
      }
      const float largest = LargestMagnitude(values);
      if (largest == 0.0f) continue;
      const auto limit = static_cast<float>((1 << (bits_ - 1)) - 1);
      scale = largest / limit;
      // Divided by the largest first: its quotient by `limit` may underflow, this can't.
      for (size_t o = 0; o < width; ++o) out[o] = std::nearbyint(values[o] / largest * limit);
    }
  }
}

}  // namespace thresher
