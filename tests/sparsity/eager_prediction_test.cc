#include "backend/device/eager_prediction.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/tensor/dtype.h"

namespace thresher {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

std::vector<float> Normal(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(EncodeLeadingOne, KeepsSignAndLeadingOne) {
  // At 8 bits the largest, 127, has scale 1.
  const std::vector<float> x = {127, -100, 64, 63, -3, 1, 0.4f, 0};
  const LeadingOneMatrix codes = EncodeLeadingOne(ConstMatrix(x.data(), 1, 8), 8, 8);
  EXPECT_THAT(codes.codes, ElementsAre(64, -64, 64, 32, -2, 1, 0, 0));
  EXPECT_THAT(codes.scales, ElementsAre(1.0f));
}

TEST(EncodeLeadingOne, ScalesEachGroupOfEachRow) {
  const std::vector<float> x = {7, 3.5f, 70, 10, 0, 0, -0.7f, 0.1f};
  const LeadingOneMatrix codes = EncodeLeadingOne(ConstMatrix(x.data(), 2, 4), 4, 2);
  // Four bits: to 7. 3.5 / 7 * 7 is a tie and goes to 4, the even one.
  EXPECT_THAT(codes.codes, ElementsAre(4, 4, 4, 1, 0, 0, -4, 1));
  EXPECT_FLOAT_EQ(codes.scale(0, 0), 1.0f);
  EXPECT_FLOAT_EQ(codes.scale(0, 1), 10.0f);
  EXPECT_FLOAT_EQ(codes.scale(1, 0), 0.0f);
  EXPECT_FLOAT_EQ(codes.scale(1, 1), 0.1f);
}

TEST(EncodeLeadingOne, EveryCodeIsAPowerOfTwoThatBf16Holds) {
  const std::vector<float> x = Normal(4096, 1);
  for (int32_t bits = 2; bits <= 8; ++bits) {
    for (const int8_t code : EncodeLeadingOne(ConstMatrix(x.data(), 16, 256), bits, 64).codes) {
      const int magnitude = std::abs(code);
      EXPECT_EQ(magnitude & (magnitude - 1), 0);
      EXPECT_LE(magnitude, 1 << (bits - 2));
      EXPECT_EQ(FromBF16(ToBF16(code)), code);
    }
  }
}

TEST(EncodeLeadingOne, WhatIsNotFiniteOrZeroGivesZeros) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {nan, 1, 2, inf, 0, 0};
  const LeadingOneMatrix codes = EncodeLeadingOne(ConstMatrix(x.data(), 1, 6), 8, 2);
  EXPECT_THAT(codes.codes, Each(0));
  EXPECT_THAT(codes.scales, Each(0.0f));
}

TEST(EncodeLeadingOne, TheSmallestNumbersDoNotOverflow) {
  const std::vector<float> x = {std::numeric_limits<float>::denorm_min(), 0};
  EXPECT_THAT(EncodeLeadingOne(ConstMatrix(x.data(), 1, 2), 8, 2).codes, ElementsAre(64, 0));
}

TEST(AddOnlyDot, AddsExponents) {
  // 4*2 - 2*1 + 0 = 6
  const std::vector<int8_t> a = {4, -2, 0, 64};
  const std::vector<int8_t> b = {2, 1, 64, 0};
  EXPECT_EQ(AddOnlyDot(a, b), 6);
  EXPECT_EQ(FloatDot(a, b), 6.0f);
}

TEST(AddOnlyDot, EqualsTheFloatProductInAnyOrder) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const size_t size = 1 + random() % 4096;
    const std::vector<float> x = Normal(size, random());
    const std::vector<float> y = Normal(size, random());
    const auto count = static_cast<int64_t>(size);
    std::vector<int8_t> a = EncodeLeadingOne(ConstMatrix(x.data(), 1, count), 8, count).codes;
    std::vector<int8_t> b = EncodeLeadingOne(ConstMatrix(y.data(), 1, count), 8, count).codes;
    const auto expected = static_cast<float>(AddOnlyDot(a, b));
    EXPECT_EQ(FloatDot(a, b), expected);
    std::ranges::reverse(a);
    std::ranges::reverse(b);
    EXPECT_EQ(FloatDot(a, b), expected);
  }
}

TEST(PredictProjection, ScalesAndAddsTheBias) {
  const std::vector<float> x = {127, 32};
  const std::vector<float> w = {127, -127, 254, 0};
  const std::vector<float> bias = {0.5f, 1.5f};
  const LeadingOneMatrix xs = EncodeLeadingOne(ConstMatrix(x.data(), 1, 2), 8, 2);
  const LeadingOneMatrix ws = EncodeLeadingOne(ConstMatrix(w.data(), 2, 2), 8, 2);
  MatrixBuffer y(1, 2);
  PredictProjection(xs, ws, bias, y.view());
  // 64 * 64 - 32 * 64 at scale 1, 64 * 64 at scale 2.
  EXPECT_FLOAT_EQ(y.view().row(0)[0], kMantissaCorrection * 2048 + 0.5f);
  EXPECT_FLOAT_EQ(y.view().row(0)[1], kMantissaCorrection * 8192 + 1.5f);
  PredictProjection(xs, ws, {}, y.view());
  EXPECT_FLOAT_EQ(y.view().row(0)[0], kMantissaCorrection * 2048);
}

/// Scores of one random layer with one head: the predicted and the true ones.
struct Layer {
  explicit Layer(uint32_t seed) : predicted(kTokens, kTokens), truth(kTokens, kTokens) {
    const std::vector<float> x = Normal(kTokens * kHidden, seed);
    const std::vector<float> w = Normal(2 * kHead * kHidden, seed + 1);
    const auto project = [&](const float* weights) {
      std::vector<float> y(kTokens * kHead);
      for (int i = 0; i < kTokens; ++i) {
        for (int o = 0; o < kHead; ++o) {
          for (int d = 0; d < kHidden; ++d) {
            y[i * kHead + o] += x[i * kHidden + d] * weights[o * kHidden + d];
          }
        }
      }
      return y;
    };
    const std::vector<float> q = project(w.data());
    const std::vector<float> k = project(w.data() + kHead * kHidden);
    for (int i = 0; i < kTokens; ++i) {
      for (int j = 0; j < kTokens; ++j) {
        float sum = 0;
        for (int d = 0; d < kHead; ++d) sum += q[i * kHead + d] * k[j * kHead + d];
        truth.view().row(i)[j] = sum;
      }
    }
    const auto encode = [](const float* data, int rows, int cols) {
      return EncodeLeadingOne(ConstMatrix(data, rows, cols), 8, cols);
    };
    const LeadingOneMatrix xs = encode(x.data(), kTokens, kHidden);
    MatrixBuffer q_hat(kTokens, kHead);
    MatrixBuffer k_hat(kTokens, kHead);
    PredictProjection(xs, encode(w.data(), kHead, kHidden), {}, q_hat.view());
    PredictProjection(xs, encode(w.data() + kHead * kHidden, kHead, kHidden), {}, k_hat.view());
    PredictScores(encode(q_hat.view().data, kTokens, kHead), 0,
                  encode(k_hat.view().data, kTokens, kHead), 0, 1.0f, predicted.view());
  }
  static constexpr int kTokens = 64;
  static constexpr int kHidden = 128;
  static constexpr int kHead = 32;
  MatrixBuffer predicted;
  MatrixBuffer truth;
};

TEST(PredictScores, HasTheScaleOfTheTrueScores) {
  double both = 0;
  double squares = 0;
  for (uint32_t seed = 0; seed < 10; ++seed) {
    const Layer layer(seed * 2);
    for (int i = 0; i < Layer::kTokens; ++i) {
      for (int j = 0; j < Layer::kTokens; ++j) {
        both += double{layer.predicted.view().row(i)[j]} * layer.truth.view().row(i)[j];
        squares += double{layer.truth.view().row(i)[j]} * layer.truth.view().row(i)[j];
      }
    }
  }
  // The slope of the predicted on the true scores.
  RecordProperty("slope", std::to_string(both / squares));
  EXPECT_GT(both / squares, 0.85);
  EXPECT_LT(both / squares, 1.15);
}

TEST(PredictScores, FindsMostOfTheTopQuarter) {
  int hits = 0;
  int all = 0;
  TopK<float> predicted_top;
  TopK<float> true_top;
  for (uint32_t seed = 100; seed < 110; ++seed) {
    const Layer layer(seed * 2);
    for (int i = 0; i < Layer::kTokens; ++i) {
      const auto guess = predicted_top(layer.predicted.view().row_span(i), 16);
      for (const int32_t j : true_top(layer.truth.view().row_span(i), 16)) {
        hits += std::ranges::binary_search(guess, j) ? 1 : 0;
        ++all;
      }
    }
  }
  // Random data has no structure that would help; chance finds a quarter.
  RecordProperty("hit_rate", std::to_string(1.0 * hits / all));
  EXPECT_GT(1.0 * hits / all, 0.7);
}

TEST(PredictScores, ReadsTheHeadItIsAskedFor) {
  const std::vector<float> q = {127, 0, 0, 64};
  const std::vector<float> k = {0, 127};
  const LeadingOneMatrix qs = EncodeLeadingOne(ConstMatrix(q.data(), 1, 4), 8, 2);
  const LeadingOneMatrix ks = EncodeLeadingOne(ConstMatrix(k.data(), 1, 2), 8, 2);
  MatrixBuffer y(1, 1);
  PredictScores(qs, 0, ks, 0, 0.5f, y.view());
  EXPECT_EQ(y.view().row(0)[0], 0.0f);
  PredictScores(qs, 1, ks, 0, 0.5f, y.view());
  EXPECT_FLOAT_EQ(y.view().row(0)[0], kMantissaCorrection * 0.5f * 64 * 64 * (64.0f / 127));
}

}  // namespace
}  // namespace thresher
