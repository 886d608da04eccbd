// Speculation on zeros of a ReLU: by hand, and as properties of random layers on every device.
#include "backend/model/inner_layer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend/tensor/status.h"
#include "tests/device/random_data.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;
using testing::RandomData;
using testing::Stored;

std::vector<float> Values(ConstMatrix m) {
  std::vector<float> values;
  for (int64_t r = 0; r < m.rows; ++r) {
    values.insert(values.end(), m.row(r), m.row(r) + m.cols);
  }
  return values;
}

/// A layer with its predictors.
struct Layer {
  std::unique_ptr<PackedLinear> weights;
  LowPrecisionWeights predictors;
};

class InnerLayerTest : public ::testing::TestWithParam<std::string> {
 protected:
  Layer Pack(ConstMatrix weight, ConstMatrix bias, Precision precision = Precision::kF32) {
    Layer layer;
    layer.weights = device_->Pack(Stored(weight), Stored(bias), precision).value();
    for (const int32_t bits : {4, 8}) {
      layer.predictors[bits] =
          device_->Pack(Stored(weight), Stored(bias), PrecisionOfBits(bits)).value();
    }
    return layer;
  }

  std::vector<float> Run(const Layer& layer, ConstMatrix x,
                         const std::vector<SpeculatedRows>& speculated) {
    MatrixBuffer inner(x.rows, layer.weights->out_features());
    const absl::Status status =
        RunInnerLayer(*device_, *layer.weights, layer.predictors, Activation::kRelu, x, speculated,
                      workspace_, inner.view());
    EXPECT_TRUE(status.ok()) << status;
    return Values(inner.view());
  }

  std::unique_ptr<Device> device_ = CreateDevice(GetParam(), {.threads = 2}).value();
  InnerLayerWorkspace workspace_;
};
INSTANTIATE_TEST_SUITE_P(Devices, InnerLayerTest, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return info.param; });

TEST_P(InnerLayerTest, WorkedByHand) {
  // In 4 bits (largest magnitude 7) all of it is exact but 3.4, which becomes 3. The predictions
  // are 49, -28, -20, -14 and -1; the last output is truly 1.8. r = sqrt(3782 / 5) = 27.50.
  const float weight[] = {7, 0, -7, 7, 0, -7, 1, -7, 3.4f, -7};
  const float bias[] = {0, 0, 1, 0, -1};
  const float x[] = {7, 3};
  const Layer layer = Pack({weight, 5, 2}, {bias, 1, 5});
  struct Case {
    double margin;
    int64_t skipped, wrong;
  };
  for (const Case& c :
       {Case{0, 4, 1}, Case{0.1, 3, 0}, Case{0.6, 2, 0}, Case{0.9, 1, 0}, Case{1.1, 0, 0}}) {
    SCOPED_TRACE(c.margin);
    SpeculationRecord record;
    const std::vector<float> inner =
        Run(layer, {x, 1, 2},
            {{.rows = 1, .rule = {.margin = c.margin}, .measure = true, .record = &record}});
    EXPECT_THAT(inner, ElementsAre(49, 0, 0, 0, FloatNear(c.wrong > 0 ? 0 : 1.8f, 1e-5f)));
    EXPECT_EQ(record.predicted, 5);
    EXPECT_EQ(record.skipped, c.skipped);
    EXPECT_EQ(record.wrong, c.wrong);
  }
  // In 8 bits 3.4 is near enough.
  SpeculationRecord record;
  EXPECT_THAT(Run(layer, {x, 1, 2}, {{.rows = 1, .rule = {.bits = 8}, .record = &record}}),
              ElementsAre(49, 0, 0, 0, FloatNear(1.8f, 1e-5f)));
  EXPECT_EQ(record.skipped, 3);
  EXPECT_FALSE(record.wrong.has_value());
}

TEST_P(InnerLayerTest, SkipsWhatIsPredictedAndNothingElse) {
  RandomData random(41);
  constexpr int64_t kRows = 23, kIn = 36, kOut = 90;
  const MatrixBuffer weight = random.Normal(kOut, kIn), bias = random.Normal(1, kOut);
  const MatrixBuffer x = random.Normal(kRows, kIn);
  for (const Precision precision : testing::kPrecisions) {
    const Layer layer = Pack(weight.view(), bias.view(), precision);
    const std::vector<float> dense = Run(layer, x.view(), {});
    for (const int32_t bits : {4, 8}) {
      MatrixBuffer predicted(kRows, kOut);
      ASSERT_TRUE(
          device_->Linear(*layer.predictors.at(bits), x.view(), Activation::kNone, predicted.view())
              .ok());
      int64_t before = kRows * kOut;
      for (const double margin : {0.0, 0.2, 1.0, std::sqrt(double{kOut}) + 1e-9}) {
        SpeculationRecord record;
        const std::vector<float> inner =
            Run(layer, x.view(),
                {{.rows = kRows, .rule = {.bits = bits, .margin = margin}, .record = &record}});
        int64_t skipped = 0;
        for (int64_t r = 0; r < kRows; ++r) {
          const float* const p = ConstMatrix(predicted.view()).row(r);
          double squares = 0;
          for (int64_t o = 0; o < kOut; ++o) squares += double{p[o]} * p[o];
          for (int64_t o = 0; o < kOut; ++o) {
            const bool skip = p[o] < -margin * std::sqrt(squares / kOut);
            skipped += skip ? 1 : 0;
            ASSERT_EQ(inner[r * kOut + o], skip ? 0.0f : dense[r * kOut + o]) << r << ", " << o;
          }
        }
        EXPECT_EQ(record.skipped, skipped);
        EXPECT_EQ(record.predicted, kRows * kOut);
        EXPECT_LT(skipped, before) << margin;  // The more margin, the less is skipped.
        before = skipped;
      }
      EXPECT_EQ(before, 0);  // No prediction is that far from zero.
    }
  }
}

TEST_P(InnerLayerTest, APredictionAsGoodAsTheProductChangesNothing) {
  RandomData random(42);
  const MatrixBuffer weight = random.Normal(70, 40), bias = random.Normal(1, 70);
  const MatrixBuffer x = random.Normal(19, 40);
  const Layer layer = Pack(weight.view(), bias.view(), Precision::kInt8);
  SpeculationRecord record;
  EXPECT_EQ(
      Run(layer, x.view(), {{.rows = 19, .rule = {.bits = 8}, .measure = true, .record = &record}}),
      Run(layer, x.view(), {}));
  EXPECT_GT(record.skipped, 19 * 70 / 4);
  EXPECT_EQ(record.wrong, 0);
}

TEST_P(InnerLayerTest, RowsKeepTheirOwnRules) {
  RandomData random(43);
  constexpr int64_t kRows = 12, kOut = 33;
  const MatrixBuffer weight = random.Normal(kOut, 20), bias = random.Normal(1, kOut);
  const MatrixBuffer x = random.Normal(kRows, 20);
  const Layer layer = Pack(weight.view(), bias.view());
  // Dense, two neighbours of 4 bits, one of 8, dense, one more.
  std::vector<SpeculationRecord> records(4);
  const std::vector<SpeculatedRows> parts = {
      {.first = 2, .rows = 3, .rule = {4, 0.0}, .measure = true, .record = &records[0]},
      {.first = 5, .rows = 1, .rule = {4, 0.5}, .record = &records[1]},
      {.first = 6, .rows = 2, .rule = {8, 0.1}, .record = &records[2]},
      {.first = 10, .rows = 1, .rule = {8, 0.0}, .record = &records[3]}};
  std::vector<float> expected = Run(layer, x.view(), {});
  const std::vector<float> together = Run(layer, x.view(), parts);
  for (size_t i = 0; i < parts.size(); ++i) {
    SpeculatedRows alone = parts[i];
    SpeculationRecord record;
    alone.first = 0;
    alone.record = &record;
    const ConstMatrix rows = ConstMatrix(x.view()).Rows(parts[i].first, parts[i].rows);
    const std::vector<float> inner = Run(layer, rows, {alone});
    std::ranges::copy(inner, expected.begin() + parts[i].first * kOut);
    EXPECT_EQ(records[i].skipped, record.skipped);
    EXPECT_EQ(records[i].predicted, parts[i].rows * kOut);
    EXPECT_EQ(records[i].wrong, record.wrong);
    EXPECT_EQ(records[i].wrong.has_value(), parts[i].measure);
  }
  EXPECT_EQ(together, expected);
}

TEST_P(InnerLayerTest, WhatItNeedsAndDoesNotHaveIsAnError) {
  RandomData random(44);
  const MatrixBuffer weight = random.Normal(8, 8), x = random.Normal(2, 8);
  MatrixBuffer inner(2, 8);
  const Layer layer = Pack(weight.view(), random.Normal(1, 8).view());
  SpeculationRecord record;
  SpeculatedRows part = {.rows = 2, .record = &record};
  const auto run = [&](Activation activation) {
    return RunInnerLayer(*device_, *layer.weights, layer.predictors, activation, x.view(),
                         std::span(&part, 1), workspace_, inner.view());
  };
  EXPECT_TRUE(run(Activation::kRelu).ok());
  EXPECT_EQ(run(Activation::kGelu).code(), absl::StatusCode::kInternal);
  part.rule.bits = 6;
  EXPECT_EQ(run(Activation::kRelu).code(), absl::StatusCode::kInternal);
}

TEST_P(InnerLayerTest, RowsOfZerosAndOverflowsAreComputed) {
  // A row whose predictions are all zero has r = 0; one that overflows has no order at all.
  const float weight[] = {1, 1, -1, 2};
  const float x[] = {0, 0, 3e38f, 3e38f};
  const float bias[] = {0, 0};
  const Layer layer = Pack({weight, 2, 2}, {bias, 1, 2});
  SpeculationRecord record;
  const std::vector<float> inner =
      Run(layer, {x, 2, 2}, {{.rows = 2, .rule = {.bits = 8}, .record = &record}});
  EXPECT_EQ(record.skipped, 0);
  EXPECT_EQ(inner, Run(layer, {x, 2, 2}, {}));
}

TEST(InnerLayerOnDevices, CpuSkipsWhatTheReferenceSkips) {
  RandomData random(45);
  constexpr int64_t kRows = 40, kIn = 64, kOut = 300;
  const MatrixBuffer weight = random.Normal(kOut, kIn), bias = random.Normal(1, kOut);
  const MatrixBuffer x = random.Normal(kRows, kIn);
  for (const int32_t bits : {4, 8}) {
    for (const double margin : {0.0, 0.3}) {
      std::vector<std::vector<float>> inner;
      std::vector<SpeculationRecord> records(2);
      for (const char* name : {"reference", "cpu"}) {
        const auto device = CreateDevice(name, {.threads = 2}).value();
        const auto pack = [&](Precision precision) {
          return device->Pack(Stored(weight.view()), Stored(bias.view()), precision).value();
        };
        LowPrecisionWeights predictors;
        predictors[bits] = pack(PrecisionOfBits(bits));
        const SpeculatedRows part = {.rows = kRows,
                                     .rule = {.bits = bits, .margin = margin},
                                     .measure = true,
                                     .record = &records[inner.size()]};
        MatrixBuffer out(kRows, kOut);
        InnerLayerWorkspace workspace;
        ASSERT_TRUE(RunInnerLayer(*device, *pack(Precision::kF32), predictors, Activation::kRelu,
                                  x.view(), std::span(&part, 1), workspace, out.view())
                        .ok());
        inner.push_back(Values(out.view()));
      }
      EXPECT_EQ(records[0].skipped, records[1].skipped);
      EXPECT_EQ(records[0].wrong, records[1].wrong);
      EXPECT_GT(records[0].skipped, kRows * kOut / 4);
      for (size_t i = 0; i < inner[0].size(); ++i) ASSERT_NEAR(inner[0][i], inner[1][i], 2e-4) << i;
    }
  }
}

}  // namespace
}  // namespace thresher
