// Every device's eager prediction against the plain functions, bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "backend/device/device.h"
#include "backend/tensor/status.h"
#include "tests/device/random_data.h"

namespace thresher {
namespace {

class EagerPrediction : public ::testing::TestWithParam<const char*> {
 protected:
  EagerPrediction() : device_(*CreateDevice(GetParam(), {.threads = 2})) {}

  struct Encoded {
    MatrixBuffer codes, scales;
  };
  Encoded Encode(const LeadingOneInput& input, int32_t bits, int64_t group) {
    Encoded out;
    out.codes.Resize(input.x.rows, input.x.cols);
    out.scales.Resize(input.x.rows, input.x.cols / group);
    const absl::Status status =
        device_->EncodeLeadingOne(input, bits, group, out.codes.view(), out.scales.view());
    EXPECT_TRUE(status.ok()) << Message(status);
    return out;
  }

  static void ExpectSame(const Encoded& actual, const LeadingOneMatrix& expected) {
    for (int64_t i = 0; i < expected.rows; ++i) {
      for (int64_t j = 0; j < expected.cols; ++j) {
        ASSERT_EQ(actual.codes.view().row(i)[j], static_cast<float>(expected.row(i)[j])) << i;
      }
      for (int64_t g = 0; g < expected.cols / expected.group; ++g) {
        ASSERT_EQ(actual.scales.view().row(i)[g], expected.scale(i, g)) << i;
      }
    }
  }

  std::unique_ptr<Device> device_;
  testing::RandomData random_{7};
};

TEST_P(EagerPrediction, EncodesAsThePlainFunctionDoes) {
  for (const int32_t bits : {2, 5, 8}) {
    for (const int64_t group : {1, 5, 24, 120}) {
      MatrixBuffer x = random_.Normal(37, 120);
      x.view().row(3)[7] = std::numeric_limits<float>::infinity();
      x.view().row(4)[119] = std::numeric_limits<float>::quiet_NaN();
      std::fill_n(x.view().row(5), 120, 0.0f);
      std::fill_n(x.view().row(6), 120, std::numeric_limits<float>::denorm_min());
      ExpectSame(Encode({.x = x.view()}, bits, group), EncodeLeadingOne(x.view(), bits, group));
    }
  }
}

TEST_P(EagerPrediction, EncodesAProjectionWithItsScalesAndBias) {
  const MatrixBuffer x = random_.Normal(9, 16), w = random_.Normal(12, 16);
  const LeadingOneMatrix xs = EncodeLeadingOne(x.view(), 8, 16);
  const LeadingOneMatrix ws = EncodeLeadingOne(w.view(), 8, 16);
  const MatrixBuffer bias = random_.Normal(1, 12);
  const std::span<const float> bias_row = bias.view().row_span(0);
  MatrixBuffer projected(9, 12), sums(9, 12);
  PredictProjection(xs, ws, bias_row, projected.view());
  for (int64_t i = 0; i < 9; ++i) {
    for (int64_t o = 0; o < 12; ++o) {
      sums.view().row(i)[o] = FloatDot({xs.row(i), 16}, {ws.row(o), 16});
    }
  }
  const LeadingOneInput input = {
      .x = sums.view(), .row_scales = xs.scales, .col_scales = ws.scales, .bias = bias_row};
  ExpectSame(Encode(input, 8, 4), EncodeLeadingOne(projected.view(), 8, 4));
}

TEST_P(EagerPrediction, ScoresAreThoseOfThePlainFunction) {
  constexpr int32_t kDim = 24, kHeads = 6, kKvHeads = 2;
  for (const int64_t rows : {1, 7, 129, 250}) {
    const MatrixBuffer q = random_.Normal(rows, kHeads * kDim);
    const MatrixBuffer k = random_.Normal(rows, kKvHeads * kDim);
    const LeadingOneMatrix q_codes = EncodeLeadingOne(q.view(), 8, kDim);
    const LeadingOneMatrix k_codes = EncodeLeadingOne(k.view(), 8, kDim);
    const Encoded query = Encode({.x = q.view()}, 8, kDim);
    const Encoded key = Encode({.x = k.view()}, 8, kDim);
    const std::vector<int32_t> heads = {0, 2, 5};
    std::vector<MatrixBuffer> actual(kHeads);
    for (const int32_t h : heads) actual[h].Resize(rows, rows);
    std::vector<int64_t> seen(kHeads, 0);
    std::mutex mutex;
    const absl::Status status = device_->PredictScores(
        {.query_codes = query.codes.view(),
         .query_scales = query.scales.view(),
         .key_codes = key.codes.view(),
         .key_scales = key.scales.view(),
         .width = kDim,
         .factor = kMantissaCorrection * 0.3f},
        heads, [&](int32_t head, int64_t first, ConstMatrix scores) {
          const std::lock_guard lock(mutex);
          seen[head] += scores.rows;
          for (int64_t i = 0; i < scores.rows; ++i) {
            std::copy_n(scores.row(i), rows, actual[head].view().row(first + i));
          }
        });
    ASSERT_TRUE(status.ok()) << Message(status);
    for (int32_t h = 0; h < kHeads; ++h) {
      const bool asked = h == 0 || h == 2 || h == 5;
      ASSERT_EQ(seen[h], asked ? rows : 0);
      if (!asked) continue;
      MatrixBuffer expected(rows, rows);
      PredictScores(q_codes, h, k_codes, h / 3, 0.3f, expected.view());
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < rows; ++j) {
          ASSERT_EQ(actual[h].view().row(i)[j], expected.view().row(i)[j]) << h << " " << i;
        }
      }
    }
  }
}

TEST_P(EagerPrediction, RefusesWhatDoesNotFit) {
  MatrixBuffer x(2, 6), codes(2, 6), scales(2, 2);
  EXPECT_FALSE(device_->EncodeLeadingOne({.x = x.view()}, 9, 3, codes.view(), scales.view()).ok());
  EXPECT_FALSE(device_->EncodeLeadingOne({.x = x.view()}, 8, 4, codes.view(), scales.view()).ok());
  EXPECT_FALSE(device_->EncodeLeadingOne({.x = x.view()}, 8, 2, codes.view(), scales.view()).ok());
  const std::vector<int32_t> heads = {2};
  const absl::Status status = device_->PredictScores({.query_codes = codes.view(),
                                                      .query_scales = scales.view(),
                                                      .key_codes = codes.view(),
                                                      .key_scales = scales.view(),
                                                      .width = 3},
                                                     heads, [](int32_t, int64_t, ConstMatrix) {});
  EXPECT_NE(Message(status).find("head 2 of 2"), std::string::npos) << Message(status);
}

INSTANTIATE_TEST_SUITE_P(Devices, EagerPrediction, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace thresher
