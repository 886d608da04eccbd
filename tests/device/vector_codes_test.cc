// Codes of rows of Q and K: what they are, and that every device makes the same.
#include "backend/device/vector_codes.h"

#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "backend/device/device.h"
#include "backend/tensor/status.h"
#include "tests/device/random_data.h"

namespace thresher {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;

struct Encoded {
  Encoded(const VectorCodes& encoder, ConstMatrix x)
      : codes(x.rows, x.cols / encoder.head_dim() * encoder.width()),
        scales(x.rows, x.cols / encoder.head_dim()) {}
  std::vector<float> all_codes() const { return {codes.view().data, end(codes.view())}; }
  std::vector<float> all_scales() const { return {scales.view().data, end(scales.view())}; }
  static const float* end(ConstMatrix m) { return m.data + m.rows * m.cols; }

  MatrixBuffer codes, scales;
};

Encoded Encode(const VectorCodes& encoder, ConstMatrix x, std::span<const float> center = {}) {
  Encoded out(encoder, x);
  encoder.Encode(x, center, 0, x.rows, out.codes.view(), out.scales.view());
  return out;
}

ConstMatrix Row(const std::vector<float>& values) {
  return {values.data(), 1, static_cast<int64_t>(values.size())};
}

TEST(VectorCodes, IntegersAreScaledByTheHeadsLargest) {
  // Four bits: to 7. 3.5 / 7 * 7 is a tie and goes to 4, the even one.
  const std::vector<float> x = {7, -3.5f, 70, 12, 0, 0, -0.7f, 0.1f};
  const Encoded out = Encode(VectorCodes::Integers(2, 4), ConstMatrix(x.data(), 2, 4));
  EXPECT_THAT(out.all_codes(), ElementsAre(7, -4, 7, 1, 0, 0, -7, 1));
  EXPECT_THAT(out.all_scales(), ElementsAre(1, 10, 0, FloatNear(0.1f, 1e-8f)));
}

TEST(VectorCodes, TheCenterIsTakenOffFirst) {
  const std::vector<float> x = {10, 11, 12, 9};
  const std::vector<float> center = {10, 10, 10, 10};
  EXPECT_THAT(Encode(VectorCodes::Integers(4, 2), Row(x), center).all_codes(),
              ElementsAre(0, 0, 1, 0));
  EXPECT_THAT(Encode(VectorCodes::Integers(4, 3), Row(x), center).all_codes(),
              ElementsAre(0, 2, 3, -2));
}

TEST(VectorCodes, AProjectionMultipliesFromTheRightByHead) {
  // Two heads of two dimensions, to one: the sum, and the difference.
  const VectorCodes encoder = VectorCodes::Projection(2, 1, 8, {1, 1, 1, -1});
  EXPECT_EQ(encoder.heads(), 2);
  const std::vector<float> x = {3, 4, 3, 4};
  const Encoded out = Encode(encoder, Row(x));
  EXPECT_THAT(out.all_codes(), ElementsAre(127, -127));
  EXPECT_THAT(out.all_scales(), ElementsAre(FloatNear(7.0f / 127, 1e-7f), 1.0f / 127));
  // One matrix for all heads.
  const VectorCodes one = VectorCodes::Projection(2, 1, 8, {1, 1});
  EXPECT_EQ(one.heads(), 0);
  EXPECT_THAT(Encode(one, Row(x)).all_codes(), ElementsAre(127, 127));
}

TEST(VectorCodes, WhatIsNotFiniteOrZeroGivesZeros) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {nan, 1, 2, inf, 0, 0};
  for (const VectorCodes& encoder :
       {VectorCodes::Integers(2, 8), VectorCodes::Signs(2, 2),
        VectorCodes::Projection(2, 2, 8, TernaryProjection(2, 2, 1))}) {
    const Encoded out = Encode(encoder, Row(x));
    EXPECT_THAT(out.all_codes(), Each(0));
    EXPECT_THAT(out.all_scales(), Each(0));
  }
}

TEST(VectorCodes, TernaryProjectionsKeepProductsInTheMean) {
  // E[R R^T] is the identity.
  constexpr int64_t kRows = 24, kWidth = 4096;
  const std::vector<float> r = TernaryProjection(kRows, kWidth, 5);
  int64_t zeros = 0;
  for (const float value : r) {
    if (value == 0.0f) ++zeros;
    EXPECT_TRUE(value == 0.0f || std::abs(value) == std::abs(r[0]) || r[0] == 0.0f);
  }
  EXPECT_NEAR(static_cast<double>(zeros) / static_cast<double>(r.size()), 2.0 / 3, 0.01);
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      const float* const a = r.data() + i * kWidth;
      const double product = std::inner_product(a, a + kWidth, r.data() + j * kWidth, 0.0);
      EXPECT_NEAR(product, i == j ? 1.0 : 0.0, 0.1) << i << " " << j;
    }
  }
}

/// The Kronecker product of the factors.
std::vector<double> Whole(const std::vector<SquareMatrix>& factors) {
  std::vector<double> whole = {1.0};
  size_t dim = 1;
  for (const SquareMatrix& factor : factors) {
    const auto f = static_cast<size_t>(factor.dim);
    std::vector<double> next(whole.size() * f * f);
    for (size_t i = 0; i < dim * f; ++i) {
      for (size_t j = 0; j < dim * f; ++j) {
        next[i * dim * f + j] =
            whole[i / f * dim + j / f] * double{factor.values[i % f * f + j % f]};
      }
    }
    whole = std::move(next);
    dim *= f;
  }
  return whole;
}

TEST(VectorCodes, OrthogonalFactorsMultiplyToTheDimension) {
  const auto dims = [](int32_t dim) {
    std::vector<int32_t> all;
    for (const SquareMatrix& factor : OrthogonalFactors(dim, 1)) all.push_back(factor.dim);
    return all;
  };
  EXPECT_THAT(dims(64), ElementsAre(4, 4, 4));
  EXPECT_THAT(dims(32), ElementsAre(4, 4, 2));
  EXPECT_THAT(dims(80), ElementsAre(4, 4, 5));
  EXPECT_THAT(dims(72), ElementsAre(4, 2, 3, 3));
  EXPECT_THAT(dims(17), ElementsAre(17));
  EXPECT_THAT(dims(2 * 31), ElementsAre(2, 31));
  EXPECT_TRUE(dims(1).empty());
  for (const int32_t dim : {12, 32, 35, 64}) {
    const std::vector<double> whole = Whole(OrthogonalFactors(dim, 1));
    for (int32_t i = 0; i < dim; ++i) {
      for (int32_t j = 0; j <= i; ++j) {
        const auto a = whole.begin() + i * dim;
        const double product = std::inner_product(a, a + dim, whole.begin() + j * dim, 0.0);
        EXPECT_NEAR(product, i == j ? 1.0 : 0.0, 1e-5) << dim << ": " << i << " " << j;
      }
    }
  }
}

TEST(VectorCodes, SignsAreThoseOfTheKroneckerProduct) {
  constexpr int32_t kDim = 24, kWidth = 17;
  const std::vector<double> whole = Whole(OrthogonalFactors(kDim, 1));
  testing::RandomData random(3);
  const MatrixBuffer x = random.Normal(50, kDim);
  const Encoded out = Encode(VectorCodes::Signs(kDim, kWidth), x.view());
  EXPECT_THAT(out.all_scales(), Each(1));
  for (int64_t i = 0; i < 50; ++i) {
    for (int32_t o = 0; o < kWidth; ++o) {
      double sum = 0;
      for (int32_t d = 0; d < kDim; ++d) sum += whole[o * kDim + d] * x.view().row(i)[d];
      if (std::abs(sum) < 1e-4) continue;
      ASSERT_EQ(out.codes.view().row(i)[o], sum < 0 ? -1.0f : 1.0f) << i << " " << o;
    }
  }
}

TEST(VectorCodes, TheHammingDistanceEstimatesTheAngle) {
  constexpr int32_t kDim = 64;
  const VectorCodes encoder = VectorCodes::Signs(kDim, kDim);
  testing::RandomData random(4);
  double error = 0;
  constexpr int kPairs = 400;
  for (int pair = 0; pair < kPairs; ++pair) {
    MatrixBuffer x = random.Normal(2, kDim);
    const float* const a = x.view().row(0);
    float* const b = x.view().row(1);
    // From orthogonal to nearly alike.
    for (int32_t d = 0; d < kDim; ++d) b[d] += a[d] * static_cast<float>(pair % 10);
    const double angle = std::acos(std::inner_product(a, a + kDim, b, 0.0) /
                                   std::sqrt(std::inner_product(a, a + kDim, a, 0.0) *
                                             std::inner_product(b, b + kDim, b, 0.0)));
    const Encoded out = Encode(encoder, x.view());
    const float* const code = out.codes.view().row(0);
    const double product = std::inner_product(code, code + kDim, out.codes.view().row(1), 0.0);
    error += std::abs(std::acos(-1.0) * (kDim - product) / 2 / kDim - angle) / kPairs;
  }
  // Of independent projections the standard deviation would be pi / 2 / sqrt(64) = 0.2 at most.
  EXPECT_LT(error, 0.15);
}

TEST(PrincipalComponents, AreTheEigenvectorsLargestFirst) {
  // Eigenvalues 1, 3 and 7: along (1, -1), (1, 1) and the third axis.
  const std::vector<double> matrix = {2, 1, 0, 1, 2, 0, 0, 0, 7};
  const std::vector<float> v = PrincipalComponents(matrix, 3);
  const float half = std::sqrt(0.5f);
  EXPECT_THAT(std::abs(v[6]), FloatNear(1, 1e-6f));
  EXPECT_THAT(std::abs(v[1]), FloatNear(half, 1e-6f));
  EXPECT_THAT(v[1] * v[4], FloatNear(0.5f, 1e-6f));
  EXPECT_THAT(v[2] * v[5], FloatNear(-0.5f, 1e-6f));
}

TEST(PrincipalComponents, DiagonaliseRandomMatrices) {
  constexpr int32_t kDim = 32;
  testing::RandomData random(6);
  const MatrixBuffer x = random.Normal(kDim, kDim);
  std::vector<double> gram(kDim * kDim);
  for (int32_t i = 0; i < kDim; ++i) {
    for (int32_t j = 0; j < kDim; ++j) {
      const float* const a = x.view().row(i);
      gram[i * kDim + j] = std::inner_product(a, a + kDim, x.view().row(j), 0.0);
    }
  }
  const std::vector<float> v = PrincipalComponents(gram, kDim);
  double last = std::numeric_limits<double>::infinity();
  for (int32_t a = 0; a < kDim; ++a) {
    for (int32_t b = 0; b <= a; ++b) {
      double product = 0;
      for (int32_t i = 0; i < kDim; ++i) {
        for (int32_t j = 0; j < kDim; ++j) {
          product += v[i * kDim + a] * gram[i * kDim + j] * v[j * kDim + b];
        }
      }
      if (a != b) {
        EXPECT_NEAR(product, 0, 1e-3);
        continue;
      }
      EXPECT_LE(product, last + 1e-3);
      last = product;
    }
  }
}

class DeviceVectorCodes : public ::testing::TestWithParam<const char*> {
 protected:
  DeviceVectorCodes() : device_(*CreateDevice(GetParam(), {.threads = 2})) {}
  std::unique_ptr<Device> device_;
  testing::RandomData random_{7};
};

TEST_P(DeviceVectorCodes, AreThoseOfThePlainFunction) {
  constexpr int32_t kDim = 24;
  const MatrixBuffer center = random_.Normal(1, 5 * kDim);
  for (const VectorCodes& encoder :
       {VectorCodes::Integers(kDim, 4), VectorCodes::Signs(kDim, 16),
        VectorCodes::Projection(kDim, 8, 8, TernaryProjection(kDim, 8, 1)),
        VectorCodes::Projection(kDim, 3, 4, TernaryProjection(5 * kDim, 3, 1))}) {
    MatrixBuffer x = random_.Normal(301, 5 * kDim);
    x.view().row(3)[7] = std::numeric_limits<float>::infinity();
    const std::span<const float> middle = center.view().row_span(0);
    const Encoded expected = Encode(encoder, x.view(), middle);
    Encoded actual(encoder, x.view());
    const absl::Status status = device_->EncodeVectors(encoder, x.view(), middle,
                                                       actual.codes.view(), actual.scales.view());
    ASSERT_TRUE(status.ok()) << Message(status);
    EXPECT_EQ(actual.all_codes(), expected.all_codes());
    EXPECT_EQ(actual.all_scales(), expected.all_scales());
  }
}

TEST_P(DeviceVectorCodes, ScoresOfNarrowCodesAreTheirProducts) {
  constexpr int32_t kHeads = 2, kWidth = 5;
  constexpr int64_t kRows = 150;
  const VectorCodes encoder =
      VectorCodes::Projection(8, kWidth, 8, TernaryProjection(8, kWidth, 2));
  const MatrixBuffer q = random_.Normal(kRows, kHeads * 8), k = random_.Normal(kRows, kHeads * 8);
  const Encoded query = Encode(encoder, q.view()), key = Encode(encoder, k.view());
  const std::vector<int32_t> heads = {1};
  const ScoreOperands operands = {.query_codes = query.codes.view(),
                                  .query_scales = query.scales.view(),
                                  .key_codes = key.codes.view(),
                                  .key_scales = key.scales.view(),
                                  .width = kWidth,
                                  .factor = 0.5f};
  const absl::Status status =
      device_->PredictScores(operands, heads, [&](int32_t head, int64_t first, ConstMatrix scores) {
        EXPECT_EQ(head, 1);
        for (int64_t r = 0; r < scores.rows; ++r) {
          for (int64_t j = 0; j < kRows; ++j) {
            const float* const code = query.codes.view().row(first + r) + kWidth;
            const float sum =
                std::inner_product(code, code + kWidth, key.codes.view().row(j) + kWidth, 0.0f);
            const float factor =
                0.5f * query.scales.view().row(first + r)[1] * key.scales.view().row(j)[1];
            EXPECT_EQ(scores.row(r)[j], sum * factor);
          }
        }
      });
  EXPECT_TRUE(status.ok()) << Message(status);
}

TEST_P(DeviceVectorCodes, WhatDoesNotFitIsRefused) {
  MatrixBuffer x(2, 8), codes(2, 8), scales(2, 2);
  const auto encode = [&](const VectorCodes& encoder, std::span<const float> center = {}) {
    return Message(device_->EncodeVectors(encoder, x.view(), center, codes.view(), scales.view()));
  };
  EXPECT_THAT(encode(VectorCodes::Signs(4, 5)), HasSubstr("codes of 5 elements from 4"));
  EXPECT_THAT(encode(VectorCodes()), HasSubstr("codes of 0 elements"));
  EXPECT_THAT(encode(VectorCodes::Integers(8, 8)), HasSubstr("x 2x8"));
  EXPECT_THAT(encode(VectorCodes::Signs(4, 2)), HasSubstr("codes 2x8"));
  const std::vector<float> three(3);
  EXPECT_THAT(encode(VectorCodes::Integers(4, 8), three), HasSubstr("center of 3"));
  EXPECT_THAT(encode(VectorCodes::Projection(4, 4, 8, TernaryProjection(12, 4, 1))),
              HasSubstr("scales 2x2"));
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceVectorCodes, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace thresher
