// Every operation of every device against `reference`, over random ragged shapes; and the reference
// itself against cases worked out by hand.
#include "backend/device/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backend/tensor/status.h"
#include "tests/device/random_data.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kActivations;
using testing::kPrecisions;
using testing::Offsets;
using testing::RandomData;
using testing::Stored;

std::unique_ptr<Device> Create(const std::string& name, int threads = 2) {
  auto device = CreateDevice(name, {.threads = threads});
  EXPECT_TRUE(device.ok()) << device.status();
  return *std::move(device);
}

float LargestMagnitude(ConstMatrix m) {
  float largest = 0.0f;
  for (int64_t r = 0; r < m.rows; ++r) {
    for (const float v : m.row_span(r)) largest = std::max(largest, std::abs(v));
  }
  return largest;
}

/// Every element within `tolerance` of the expected one, relative to the largest expected.
void ExpectNear(ConstMatrix actual, ConstMatrix expected, float tolerance) {
  ASSERT_EQ(actual.rows, expected.rows);
  ASSERT_EQ(actual.cols, expected.cols);
  const float bound = tolerance * std::max(1e-6f, LargestMagnitude(expected));
  for (int64_t r = 0; r < actual.rows; ++r) {
    for (int64_t c = 0; c < actual.cols; ++c) {
      ASSERT_NEAR(actual.row(r)[c], expected.row(r)[c], bound) << "row " << r << ", column " << c;
    }
  }
}

std::vector<float> RowOf(ConstMatrix m, int64_t row) { return {m.row(row), m.row(row) + m.cols}; }

// ---- Names ----

TEST(DeviceNames, PrecisionsGoThereAndBack) {
  for (const Precision precision : kPrecisions) {
    EXPECT_EQ(ParsePrecision(Name(precision)).value(), precision);
  }
  EXPECT_EQ(ParsePrecision("f64").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(DeviceNames, UnknownDeviceIsNotFoundAndTheKnownAreNamed) {
  const auto device = CreateDevice("gpu", {});
  EXPECT_EQ(device.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(device.status()), HasSubstr("cpu, cpu:onednn, reference"));
}

TEST(DeviceNames, ARatingOfAttentionAloneCannotPriceWholeLayers) {
  EXPECT_EQ(CheckDeviceName("sim:spatten"), absl::OkStatus());
  const absl::Status rated = CheckDeviceName("sim:rated-fact");
  EXPECT_EQ(rated.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(rated), HasSubstr("rates of attention alone"));
  EXPECT_EQ(CreateDevice("sim:rated-fact@reference", {.threads = 1}).status(), rated);
}

TEST(DeviceNames, NoThreadsAndAbsurdlyManyAreErrors) {
  for (const int threads : {-1, 0, 1'000'000}) {
    EXPECT_EQ(CreateDevice("cpu", {.threads = threads}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

// ---- Each device alone ----

class EachDevice : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Device> device_ = Create(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Devices, EachDevice, ::testing::Values("reference", "cpu", "cpu:onednn"),
                         [](const auto& info) {
                           return info.param == "cpu:onednn" ? "oneDNN" : info.param;
                         });

TEST_P(EachDevice, DescribesItself) {
  EXPECT_EQ(device_->description().name, GetParam());
  EXPECT_FALSE(device_->description().isa.empty());
  EXPECT_FALSE(device_->description().library.empty());
  EXPECT_GE(device_->description().threads, 1);
}

TEST_P(EachDevice, LinearIsTheProductWithTheTransposePlusBias) {
  const float weight[] = {1, 2, 3, -1, 0, 1};  // [2, 3]
  const float bias[] = {10, 20};
  const float x[] = {1, 1, 1, 2, 0, -1};  // [2, 3]
  const auto packed =
      device_->Pack({DType::kF32, weight, 2, 3}, {DType::kF32, bias, 1, 2}, Precision::kF32);
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ((*packed)->in_features(), 3);
  EXPECT_EQ((*packed)->out_features(), 2);
  EXPECT_EQ((*packed)->precision(), Precision::kF32);
  EXPECT_GE((*packed)->bytes(), 8 * sizeof(float));
  MatrixBuffer y(2, 2);
  ASSERT_TRUE(device_->Linear(**packed, {x, 2, 3}, Activation::kNone, y.view()).ok());
  EXPECT_THAT(RowOf(y.view(), 0), ElementsAre(16, 20));
  EXPECT_THAT(RowOf(y.view(), 1), ElementsAre(9, 17));
  ASSERT_TRUE(device_->Linear(**packed, {x, 0, 3}, Activation::kNone, {y.view().data, 0, 2}).ok());
}

TEST_P(EachDevice, WeightsOfAnyStoredTypeAndAlignmentPack) {
  // 1.5 and -2 are exact in every type.
  const uint16_t bf16[] = {0x3fc0, 0xc000};
  const uint16_t f16[] = {0x3e00, 0xc000};
  std::vector<char> bytes(1 + sizeof(bf16));
  for (const auto& [type, bits] : {std::pair(DType::kBF16, bf16), std::pair(DType::kF16, f16)}) {
    std::memcpy(bytes.data() + 1, bits, sizeof(bf16));
    const auto packed = device_->Pack({type, bytes.data() + 1, 1, 2}, {}, Precision::kF32);
    ASSERT_TRUE(packed.ok()) << packed.status();
    const float x[] = {2, 1};
    float y = 0;
    ASSERT_TRUE(device_->Linear(**packed, {x, 1, 2}, Activation::kNone, {&y, 1, 1}).ok());
    EXPECT_EQ(y, 1.0f) << Name(type);
  }
}

TEST_P(EachDevice, SomeOutputsHaveTheBitsOfAllAndTheOthersAreZero) {
  RandomData random(30);
  constexpr int64_t kIn = 41, kOut = 70;
  const MatrixBuffer weight = random.Normal(kOut, kIn), bias = random.Normal(1, kOut);
  for (const Precision precision : kPrecisions) {
    const auto packed =
        device_->Pack(Stored(weight.view()), Stored(bias.view()), precision).value();
    for (const int64_t rows : {0, 1, 17}) {
      const MatrixBuffer x = random.Normal(rows, kIn);
      MatrixBuffer all(rows, kOut), some(rows, kOut);
      std::vector<uint8_t> wanted(static_cast<size_t>(rows * kOut));
      for (uint8_t& flag : wanted) flag = random.Integer(0, 1) != 0 ? 1 : 0;
      for (const Activation activation : {Activation::kRelu, Activation::kGelu}) {
        ASSERT_TRUE(device_->Linear(*packed, x.view(), activation, all.view()).ok());
        ASSERT_TRUE(
            device_->LinearOfOutputs(*packed, x.view(), wanted, activation, some.view()).ok());
        for (int64_t i = 0; i < rows * kOut; ++i) {
          ASSERT_EQ(some.view().data[i], wanted[i] != 0 ? all.view().data[i] : 0.0f) << i;
        }
      }
      wanted.push_back(1);
      EXPECT_EQ(device_->LinearOfOutputs(*packed, x.view(), wanted, Activation::kRelu, some.view())
                    .code(),
                absl::StatusCode::kInvalidArgument);
    }
  }
}

TEST_P(EachDevice, ColumnsOfZerosMayBePassedOver) {
  RandomData random(31);
  constexpr int64_t kIn = 40, kOut = 70;
  const std::vector<std::vector<ColumnRange>> cases = {
      {}, {{0, 8}}, {{0, kIn}}, {{5, 6}, {6, 19}, {33, kIn}}, {{7, 7}, {8, 31}}};
  for (const Precision precision : kPrecisions) {
    const MatrixBuffer weight = random.Normal(kOut, kIn), bias = random.Normal(1, kOut);
    const auto packed =
        device_->Pack(Stored(weight.view()), Stored(bias.view()), precision).value();
    for (const auto& columns : cases) {
      for (const int64_t rows : {1, 2, 29}) {
        const MatrixBuffer full = random.Normal(rows, kIn);
        MatrixBuffer x(rows, kIn);
        for (int64_t r = 0; r < rows; ++r) {
          std::fill_n(x.view().row(r), kIn, 0.0f);
          for (const ColumnRange& range : columns) {
            std::copy(full.view().row(r) + range.begin, full.view().row(r) + range.end,
                      x.view().row(r) + range.begin);
          }
        }
        MatrixBuffer whole(rows, kOut), part(rows, kOut);
        ASSERT_TRUE(device_->Linear(*packed, x.view(), Activation::kNone, whole.view()).ok());
        ASSERT_TRUE(device_->LinearOfColumns(*packed, x.view(), columns, part.view()).ok());
        for (int64_t r = 0; r < rows; ++r) {
          EXPECT_EQ(RowOf(part.view(), r), RowOf(whole.view(), r)) << Name(precision);
        }
      }
    }
  }
}

TEST_P(EachDevice, ActivationsMatchTheirDefinitions) {
  const float identity[] = {1};
  const auto packed = device_->Pack({DType::kF32, identity, 1, 1}, {}, Precision::kF32);
  ASSERT_TRUE(packed.ok());
  std::vector<float> x;
  for (int i = -1200; i <= 1200; ++i) x.push_back(static_cast<float>(i) * 0.01f);
  for (const float extreme : {-1e4f, -100.0f, -90.0f, -50.0f, 50.0f, 90.0f, 100.0f, 1e4f}) {
    x.push_back(extreme);
  }
  const auto exact = [](Activation activation, double v) {
    switch (activation) {
      case Activation::kNone:
        return v;
      case Activation::kGelu:
        return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
      case Activation::kGeluTanh:
        return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
      case Activation::kRelu:
        return std::max(v, 0.0);
      case Activation::kTanh:
        return std::tanh(v);
      case Activation::kSilu:
        return v / (1 + std::exp(-v));
    }
    return v;
  };
  const auto rows = static_cast<int64_t>(x.size());
  std::vector<float> y(x.size());
  for (const Activation activation : kActivations) {
    ASSERT_TRUE(
        device_->Linear(**packed, {x.data(), rows, 1}, activation, {y.data(), rows, 1}).ok());
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_NEAR(y[i], exact(activation, x[i]), 4e-7 * std::max(1.0f, std::abs(x[i])))
          << "activation " << static_cast<int>(activation) << " of " << x[i];
    }
  }
}

TEST_P(EachDevice, AttentionOfOneTokenIsItsValue) {
  RandomData random(1);
  const MatrixBuffer q = random.Normal(1, 12), k = random.Normal(1, 12), v = random.Normal(1, 12);
  const int32_t offsets[] = {0, 1};
  MatrixBuffer out(1, 12);
  ASSERT_TRUE(device_
                  ->Attention({.shape = {3, 3, 4},
                               .query = q.view(),
                               .key = k.view(),
                               .value = v.view(),
                               .offsets = offsets},
                              out.view())
                  .ok());
  EXPECT_EQ(RowOf(out.view(), 0), RowOf(v.view(), 0));
}

TEST_P(EachDevice, AttentionWeighsByTheExponentialOfTheScaledScore) {
  // Scores of the query 1 with keys 0 and ln 3 / 2, scale 2: weights 1/4 and 3/4.
  const float q[] = {1, 1}, k[] = {0, std::log(3.0f) / 2}, v[] = {4, 8};
  const int32_t offsets[] = {0, 2};
  float out[2];
  AttentionInput input{.shape = {1, 1, 1},
                       .query = {q, 2, 1},
                       .key = {k, 2, 1},
                       .value = {v, 2, 1},
                       .offsets = offsets,
                       .scale = 2.0f};
  ASSERT_TRUE(device_->Attention(input, {out, 2, 1}).ok());
  EXPECT_NEAR(out[0], 7.0f, 1e-5f);
  EXPECT_NEAR(out[1], 7.0f, 1e-5f);
  input.causal = true;
  ASSERT_TRUE(device_->Attention(input, {out, 2, 1}).ok());
  EXPECT_EQ(out[0], 4.0f);
  EXPECT_NEAR(out[1], 7.0f, 1e-5f);
}

TEST_P(EachDevice, LayerNormUsesTheMeanOfSquares) {
  const float x[] = {1, 3}, residual[] = {0, 2};  // Sum {1, 5}: mean 3, variance 4.
  const float gamma[] = {1, 10}, beta[] = {0, 100};
  float y[2];
  ASSERT_TRUE(device_->LayerNorm({x, 1, 2}, {residual, 1, 2}, gamma, beta, 0.0f, {y, 1, 2}).ok());
  EXPECT_THAT(y, ElementsAre(-1, 110));
  ASSERT_TRUE(device_->LayerNorm({x, 1, 2}, {}, gamma, beta, 0.0f, {y, 1, 2}).ok());
  EXPECT_THAT(y, ElementsAre(-1, 110));
}

TEST_P(EachDevice, EmbedAddsARowOfEachTable) {
  const float words[] = {1, 2, 3, 4}, positions[] = {10, 20, 30, 40};
  const int32_t word_ids[] = {1, 0, 1}, position_ids[] = {0, 1, 1};
  const Device::Lookup lookups[] = {{{DType::kF32, words, 2, 2}, word_ids},
                                    {{DType::kF32, positions, 2, 2}, position_ids}};
  MatrixBuffer y(3, 2);
  ASSERT_TRUE(device_->Embed(lookups, y.view()).ok());
  EXPECT_THAT(RowOf(y.view(), 0), ElementsAre(13, 24));
  EXPECT_THAT(RowOf(y.view(), 1), ElementsAre(31, 42));
  EXPECT_THAT(RowOf(y.view(), 2), ElementsAre(33, 44));
}

TEST_P(EachDevice, MeanPoolAveragesEachSequenceAndAnEmptyOneIsZero) {
  const float x[] = {1, 2, 3, 4, 5, 6};  // [3, 2]
  const int32_t offsets[] = {0, 2, 2, 3};
  MatrixBuffer y(3, 2);
  ASSERT_TRUE(device_->MeanPool({x, 3, 2}, offsets, y.view()).ok());
  EXPECT_THAT(RowOf(y.view(), 0), ElementsAre(2, 3));
  EXPECT_THAT(RowOf(y.view(), 1), ElementsAre(0, 0));
  EXPECT_THAT(RowOf(y.view(), 2), ElementsAre(5, 6));
}

TEST_P(EachDevice, ShapesThatDoNotFitAreRefusedWithTheReason) {
  const float data[64] = {};
  float out[64];
  const auto packed = device_->Pack({DType::kF32, data, 2, 3}, {}, Precision::kF32);
  ASSERT_TRUE(packed.ok());
  const auto refused = [](const absl::Status& status, const std::string& reason) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status), HasSubstr(reason));
  };
  refused(device_->Linear(**packed, {data, 1, 2}, Activation::kNone, {out, 1, 2}),
          "linear input is [1, 2], expected [1, 3]");
  refused(device_->Linear(**packed, {data, 2, 3}, Activation::kNone, {out, 1, 2}),
          "linear output is [1, 2], expected [2, 2]");
  refused(device_->Pack({DType::kI32, data, 2, 3}, {}, Precision::kF32).status(), "weight is I32");
  refused(device_->Pack({DType::kF32, data, 0, 3}, {}, Precision::kF32).status(), "empty");
  refused(
      device_->Pack({DType::kF32, data, 2, 3}, {DType::kF32, data, 1, 3}, Precision::kF32).status(),
      "bias is [1, 3]");
  const int32_t offsets[] = {0, 2}, wrong_end[] = {0, 3}, falling[] = {0, 3, 1, 2};
  AttentionInput input{.shape = {2, 2, 2},
                       .query = {data, 2, 4},
                       .key = {data, 2, 4},
                       .value = {data, 2, 4},
                       .offsets = wrong_end};
  refused(device_->Attention(input, {out, 2, 4}), "end with the number of rows, 2");
  input.offsets = falling;
  refused(device_->Attention(input, {out, 2, 4}), "offsets[2] = 1 is less");
  input.offsets = offsets;
  input.shape = {3, 2, 2};
  refused(device_->Attention(input, {out, 2, 4}), "multiple of key-value heads");
  refused(device_->LayerNorm({data, 2, 4}, {}, {data, 3}, {data, 4}, 1e-5f, {out, 2, 4}),
          "gamma has 3");
  const int32_t ids[] = {0, 7};
  const Device::Lookup lookup{{DType::kF32, data, 5, 4}, ids};
  refused(device_->Embed({&lookup, 1}, {out, 2, 4}), "id 7 is outside its 5 rows");
  refused(device_->MeanPool({data, 2, 4}, wrong_end, {out, 1, 4}), "end with");
}

TEST_P(EachDevice, WeightsOfAnotherDeviceAreRefused) {
  const float data[6] = {};
  float out[2];
  const auto other = Create(GetParam() == "reference" ? "cpu" : "reference");
  const auto packed = other->Pack({DType::kF32, data, 2, 3}, {}, Precision::kF32);
  ASSERT_TRUE(packed.ok());
  EXPECT_EQ(device_->Linear(**packed, {data, 1, 3}, Activation::kNone, {out, 1, 2}).code(),
            absl::StatusCode::kInvalidArgument);
}

// ---- cpu against reference ----

class CpuAgainstReference : public ::testing::Test {
 protected:
  std::unique_ptr<Device> reference_ = Create("reference");
  std::unique_ptr<Device> cpu_ = Create("cpu");
};

TEST_F(CpuAgainstReference, LinearAgreesInEveryPrecisionShapeAndActivation) {
  RandomData random(2);
  const struct {
    int64_t in, out;
  } shapes[] = {{1, 1}, {5, 3}, {33, 17}, {64, 192}, {192, 576}, {768, 2}, {768, 100}, {1000, 400}};
  size_t turn = 0;
  for (const auto& [in, out] : shapes) {
    const MatrixBuffer weight = random.Normal(out, in, 1.0f / std::sqrt(static_cast<float>(in)));
    const MatrixBuffer bias = random.Normal(1, out);
    for (const int64_t rows : {1, 2, 7, 13, 64, 100, 300}) {
      const MatrixBuffer x = random.Normal(rows, in);
      const Activation activation = kActivations[turn++ % std::size(kActivations)];
      MatrixBuffer expected(rows, out), actual(rows, out);
      const auto oracle =
          reference_->Pack(Stored(weight.view()), Stored(bias.view()), Precision::kF32);
      ASSERT_TRUE(oracle.ok());
      ASSERT_TRUE(reference_->Linear(**oracle, x.view(), activation, expected.view()).ok());
      for (const Precision precision : kPrecisions) {
        SCOPED_TRACE(fmt::format("{} [{}, {}] x [{}, {}], activation {}", Name(precision), rows, in,
                                 out, in, static_cast<int>(activation)));
        const auto packed = cpu_->Pack(Stored(weight.view()), Stored(bias.view()), precision);
        ASSERT_TRUE(packed.ok()) << packed.status();
        EXPECT_EQ((*packed)->precision(), precision);
        ASSERT_TRUE(cpu_->Linear(**packed, x.view(), activation, actual.view()).ok());
        // Rounding to bfloat16 and to int8 is the error that is left, relative to outputs of
        // about 1.
        const float tolerance = precision == Precision::kF32    ? 1e-5f
                                : precision == Precision::kBF16 ? 2e-2f
                                                                : 6e-2f;
        ExpectNear(actual.view(), expected.view(), tolerance);
      }
    }
  }
}

TEST_F(CpuAgainstReference, LinearAgreesAtBertBaseScale) {
  RandomData random(3);
  for (const auto& [in, out] : {std::pair(768, 3072), std::pair(3072, 768)}) {
    const MatrixBuffer weight = random.Normal(out, in, 0.02f), bias = random.Normal(1, out);
    const MatrixBuffer x = random.Normal(17, in);
    MatrixBuffer expected(17, out), actual(17, out);
    const auto oracle =
        reference_->Pack(Stored(weight.view()), Stored(bias.view()), Precision::kF32);
    ASSERT_TRUE(reference_->Linear(**oracle, x.view(), Activation::kGelu, expected.view()).ok());
    const auto packed = cpu_->Pack(Stored(weight.view()), Stored(bias.view()), Precision::kF32);
    ASSERT_TRUE(cpu_->Linear(**packed, x.view(), Activation::kGelu, actual.view()).ok());
    ExpectNear(actual.view(), expected.view(), 1e-5f);
  }
}

TEST_F(CpuAgainstReference, LinearReadsAndWritesStridedRowsAndTouchesNothingElse) {
  RandomData random(4);
  const MatrixBuffer weight = random.Normal(50, 30);
  const MatrixBuffer x = random.Normal(9, 40);
  for (const Precision precision : kPrecisions) {
    const auto packed = cpu_->Pack(Stored(weight.view()), {}, precision);
    MatrixBuffer dense(9, 50);
    MatrixBuffer wide(9, 60);
    for (int64_t r = 0; r < 9; ++r) std::fill_n(wide.view().row(r), 60, -7.0f);
    const ConstMatrix part(x.view().data + 3, 9, 30, 40);
    ASSERT_TRUE(cpu_->Linear(**packed, part, Activation::kNone, dense.view()).ok());
    ASSERT_TRUE(
        cpu_->Linear(**packed, part, Activation::kNone, {wide.view().data + 5, 9, 50, 60}).ok());
    for (int64_t r = 0; r < 9; ++r) {
      for (int64_t c = 0; c < 60; ++c) {
        const bool inside = c >= 5 && c < 55;
        EXPECT_EQ(wide.view().row(r)[c], inside ? dense.view().row(r)[c - 5] : -7.0f);
      }
    }
  }
}

TEST_F(CpuAgainstReference, BFloat16IsTheProductOfTheRoundedFactors) {
  RandomData random(5);
  MatrixBuffer weight = random.Normal(40, 64), x = random.Normal(5, 64);
  const auto packed = cpu_->Pack(Stored(weight.view()), {}, Precision::kBF16);
  MatrixBuffer actual(5, 40), expected(5, 40);
  ASSERT_TRUE(cpu_->Linear(**packed, x.view(), Activation::kNone, actual.view()).ok());
  for (MatrixBuffer* m : {&weight, &x}) {
    for (int64_t r = 0; r < m->view().rows; ++r) {
      for (float& v : m->view().row_span(r)) v = FromBF16(ToBF16(v));
    }
  }
  const auto oracle = reference_->Pack(Stored(weight.view()), {}, Precision::kF32);
  ASSERT_TRUE(reference_->Linear(**oracle, x.view(), Activation::kNone, expected.view()).ok());
  ExpectNear(actual.view(), expected.view(), 1e-6f);
}

TEST_F(CpuAgainstReference, Int8IsExactOnWhatItCanRepresent) {
  // Rows whose largest magnitude is 127 have scale 1, so integers stay themselves; extremes of both
  // signs would show any saturation inside.
  RandomData random(6);
  const int64_t in = 1031, out = 70, rows = 21;
  MatrixBuffer weight(out, in), x(rows, in);
  for (MatrixBuffer* m : {&weight, &x}) {
    for (int64_t r = 0; r < m->view().rows; ++r) {
      for (float& v : m->view().row_span(r)) v = static_cast<float>(random.Integer(-127, 127));
      m->view().row(r)[0] = 127.0f;
    }
  }
  std::fill_n(weight.view().row(3), in, 127.0f);
  std::fill_n(weight.view().row(4), in, -127.0f);
  std::fill_n(x.view().row(2), in, 127.0f);
  const auto packed = cpu_->Pack(Stored(weight.view()), {}, Precision::kInt8);
  const auto oracle = reference_->Pack(Stored(weight.view()), {}, Precision::kF32);
  MatrixBuffer actual(rows, out), expected(rows, out);
  ASSERT_TRUE(cpu_->Linear(**packed, x.view(), Activation::kNone, actual.view()).ok());
  ASSERT_TRUE(reference_->Linear(**oracle, x.view(), Activation::kNone, expected.view()).ok());
  for (int64_t r = 0; r < rows; ++r) EXPECT_EQ(RowOf(actual.view(), r), RowOf(expected.view(), r));
}

TEST_F(CpuAgainstReference, QuantizedProductsAreThoseThatTheReferenceEmulates) {
  RandomData random(12);
  const MatrixBuffer weight = random.Normal(40, 96, 0.1f), bias = random.Normal(1, 40);
  const MatrixBuffer x = random.Normal(11, 96);
  MatrixBuffer exact(11, 40), expected(11, 40), actual(11, 40);
  const auto run = [&](Device& device, Precision precision, MatrixBuffer& y) {
    const auto packed = device.Pack(Stored(weight.view()), Stored(bias.view()), precision);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ((*packed)->precision(), precision);
    ASSERT_TRUE(device.Linear(**packed, x.view(), Activation::kNone, y.view()).ok());
  };
  run(*reference_, Precision::kF32, exact);
  double last = 0.0;
  for (const Precision precision : {Precision::kInt8, Precision::kInt4}) {
    run(*reference_, precision, expected);
    run(*cpu_, precision, actual);
    ExpectNear(actual.view(), expected.view(), 1e-5f);
    double error = 0.0;
    for (int64_t i = 0; i < 11; ++i) {
      for (int64_t j = 0; j < 40; ++j) {
        error += std::abs(double{expected.view().row(i)[j]} - exact.view().row(i)[j]);
      }
    }
    EXPECT_GT(error, 5 * last) << Name(precision);
    last = error;
  }
}

TEST_F(CpuAgainstReference, Int8OfARowOfZerosIsTheBias) {
  RandomData random(7);
  const MatrixBuffer weight = random.Normal(40, 20), bias = random.Normal(1, 40);
  const auto packed = cpu_->Pack(Stored(weight.view()), Stored(bias.view()), Precision::kInt8);
  const std::vector<float> zeros(20, 0.0f);
  MatrixBuffer y(1, 40);
  ASSERT_TRUE(cpu_->Linear(**packed, {zeros.data(), 1, 20}, Activation::kNone, y.view()).ok());
  EXPECT_EQ(RowOf(y.view(), 0), RowOf(bias.view(), 0));
}

TEST_F(CpuAgainstReference, AttentionAgreesOnRaggedBatches) {
  RandomData random(8);
  const AttentionShape shapes[] = {{1, 1, 1}, {2, 2, 5}, {3, 3, 64}, {4, 2, 33}, {6, 1, 16}};
  const std::vector<int32_t> batches[] = {
      {1}, {0, 3, 0, 1}, {7, 1, 130, 16}, {96, 97, 128, 129}, {300}};
  for (const AttentionShape& shape : shapes) {
    for (const std::vector<int32_t>& lengths : batches) {
      for (const bool causal : {false, true}) {
        SCOPED_TRACE(fmt::format("{} heads, {} kv heads, size {}, {} sequences, causal {}",
                                 shape.heads, shape.kv_heads, shape.head_dim, lengths.size(),
                                 causal));
        const std::vector<int32_t> offsets = Offsets(lengths);
        const int64_t tokens = offsets.back();
        const MatrixBuffer q = random.Normal(tokens, shape.heads * shape.head_dim);
        const MatrixBuffer k = random.Normal(tokens, shape.kv_heads * shape.head_dim);
        const MatrixBuffer v = random.Normal(tokens, shape.kv_heads * shape.head_dim);
        const AttentionInput input{.shape = shape,
                                   .query = q.view(),
                                   .key = k.view(),
                                   .value = v.view(),
                                   .offsets = offsets,
                                   .scale = 0.7f,
                                   .causal = causal};
        MatrixBuffer expected(tokens, q.view().cols), actual(tokens, q.view().cols);
        ASSERT_TRUE(reference_->Attention(input, expected.view()).ok());
        ASSERT_TRUE(cpu_->Attention(input, actual.view()).ok());
        ExpectNear(actual.view(), expected.view(), 1e-5f);
      }
    }
  }
}

TEST_F(CpuAgainstReference, AttentionInBFloat16IsThatOfRoundedRowsWithinARoundingOfWeights) {
  RandomData random(12);
  for (const AttentionShape& shape :
       {AttentionShape{2, 2, 64}, {4, 2, 32}, {2, 1, 128}, {2, 2, 20}}) {
    for (const std::vector<int32_t>& lengths :
         std::vector<std::vector<int32_t>>{{1}, {7, 0, 130, 16}, {96, 97, 129}, {300}}) {
      for (const bool causal : {false, true}) {
        SCOPED_TRACE(fmt::format("{} heads, {} kv heads, size {}, {} sequences, causal {}",
                                 shape.heads, shape.kv_heads, shape.head_dim, lengths.size(),
                                 causal));
        const std::vector<int32_t> offsets = Offsets(lengths);
        const int64_t tokens = offsets.back();
        // What is rounded already is rounded no more, unless it is a weight.
        const auto rounded = [&](int32_t heads) {
          MatrixBuffer rows = random.Normal(tokens, int64_t{heads} * shape.head_dim);
          const Matrix m = rows.view();
          for (int64_t r = 0; r < m.rows; ++r) {
            for (float& x : m.row_span(r)) x = FromBF16(ToBF16(x));
          }
          return rows;
        };
        const MatrixBuffer q = rounded(shape.heads), k = rounded(shape.kv_heads),
                           v = rounded(shape.kv_heads);
        AttentionInput input{.shape = shape,
                             .query = q.view(),
                             .key = k.view(),
                             .value = v.view(),
                             .offsets = offsets,
                             .scale = 0.2f,
                             .causal = causal};
        MatrixBuffer expected(tokens, q.view().cols), sizes(tokens, q.view().cols),
            actual(tokens, q.view().cols);
        ASSERT_TRUE(reference_->Attention(input, expected.view()).ok());
        input.precision = Precision::kBF16;
        ASSERT_TRUE(cpu_->Attention(input, actual.view()).ok());
        // The sum of p |v| is what weights' errors are relative to.
        MatrixBuffer magnitudes(tokens, v.view().cols);
        for (int64_t r = 0; r < tokens; ++r) {
          std::ranges::transform(v.view().row_span(r), magnitudes.view().row(r),
                                 [](float x) { return std::abs(x); });
        }
        input.value = magnitudes.view();
        ASSERT_TRUE(reference_->Attention(input, sizes.view()).ok());
        for (int64_t r = 0; r < tokens; ++r) {
          for (int64_t c = 0; c < q.view().cols; ++c) {
            ASSERT_NEAR(actual.view().row(r)[c], expected.view().row(r)[c],
                        sizes.view().row(r)[c] / 256 + 1e-5)
                << r << ", " << c;
          }
        }
      }
    }
  }
}

TEST_F(CpuAgainstReference, AttentionStaysFiniteWhenScoresAreHuge) {
  RandomData random(9);
  const int32_t offsets[] = {0, 200};
  const MatrixBuffer q = random.Normal(200, 8, 100.0f), k = random.Normal(200, 8, 100.0f);
  const MatrixBuffer v = random.Normal(200, 8);
  const AttentionInput input{.shape = {1, 1, 8},
                             .query = q.view(),
                             .key = k.view(),
                             .value = v.view(),
                             .offsets = offsets};
  MatrixBuffer expected(200, 8), actual(200, 8);
  ASSERT_TRUE(reference_->Attention(input, expected.view()).ok());
  ASSERT_TRUE(cpu_->Attention(input, actual.view()).ok());
  // Scores of about 1e5 have an absolute error of about 1e-2.
  ExpectNear(actual.view(), expected.view(), 2e-2f);
}

TEST_F(CpuAgainstReference, AttentionAgreesOnALongSequence) {
  RandomData random(10);
  const int32_t length = 4500;
  const int32_t offsets[] = {0, length};
  const MatrixBuffer q = random.Normal(length, 16), k = random.Normal(length, 16);
  const MatrixBuffer v = random.Normal(length, 16);
  const AttentionInput input{.shape = {1, 1, 16},
                             .query = q.view(),
                             .key = k.view(),
                             .value = v.view(),
                             .offsets = offsets,
                             .scale = 0.25f};
  MatrixBuffer expected(length, 16), actual(length, 16);
  ASSERT_TRUE(reference_->Attention(input, expected.view()).ok());
  ASSERT_TRUE(cpu_->Attention(input, actual.view()).ok());
  ExpectNear(actual.view(), expected.view(), 1e-5f);
}

TEST_F(CpuAgainstReference, LayerNormAgreesAlsoInPlace) {
  RandomData random(11);
  for (const int64_t cols : {1, 7, 16, 192, 768, 1001}) {
    for (const int64_t rows : {1, 5, 64}) {
      const MatrixBuffer gamma = random.Normal(1, cols), beta = random.Normal(1, cols);
      MatrixBuffer x = random.Normal(rows, cols);
      MatrixBuffer residual = random.Normal(rows, cols);
      MatrixBuffer expected(rows, cols), actual(rows, cols);
      const auto run = [&](Device& device, ConstMatrix other, Matrix y) {
        return device
            .LayerNorm(x.view(), other, gamma.view().row_span(0), beta.view().row_span(0), 1e-12f,
                       y)
            .ok();
      };
      ASSERT_TRUE(run(*reference_, {}, expected.view()));
      ASSERT_TRUE(run(*cpu_, {}, actual.view()));
      ExpectNear(actual.view(), expected.view(), 2e-6f);
      ASSERT_TRUE(run(*reference_, residual.view(), expected.view()));
      ASSERT_TRUE(run(*cpu_, residual.view(), actual.view()));
      ExpectNear(actual.view(), expected.view(), 2e-6f);
      MatrixBuffer in_place(rows, cols);
      for (int64_t r = 0; r < rows; ++r) {
        std::copy_n(residual.view().row(r), cols, in_place.view().row(r));
      }
      ASSERT_TRUE(run(*cpu_, in_place.view(), in_place.view()));
      ASSERT_TRUE(run(*cpu_, residual.view(), x.view()));
      for (int64_t r = 0; r < rows; ++r) {
        EXPECT_EQ(RowOf(in_place.view(), r), RowOf(actual.view(), r));
        EXPECT_EQ(RowOf(x.view(), r), RowOf(actual.view(), r));
      }
    }
  }
}

TEST_F(CpuAgainstReference, EmbedAgreesForEveryTypeOfTable) {
  RandomData random(12);
  const int64_t cols = 37, rows = 100;
  const MatrixBuffer table = random.Normal(50, cols);
  std::vector<uint16_t> halves(50 * cols), brains(50 * cols);
  for (size_t i = 0; i < brains.size(); ++i) {
    brains[i] = ToBF16(table.view().data[i]);
    halves[i] = static_cast<uint16_t>(random.Integer(0, 0x7bff));  // Finite float16.
  }
  const auto a = random.Integers(rows, 0, 49), b = random.Integers(rows, 0, 49),
             c = random.Integers(rows, 0, 49);
  const Device::Lookup lookups[] = {{{DType::kF16, halves.data(), 50, cols}, a},
                                    {Stored(table.view()), b},
                                    {{DType::kBF16, brains.data(), 50, cols}, c}};
  MatrixBuffer expected(rows, cols), actual(rows, cols);
  ASSERT_TRUE(reference_->Embed(lookups, expected.view()).ok());
  ASSERT_TRUE(cpu_->Embed(lookups, actual.view()).ok());
  for (int64_t r = 0; r < rows; ++r) EXPECT_EQ(RowOf(actual.view(), r), RowOf(expected.view(), r));
}

TEST_F(CpuAgainstReference, MeanPoolAgrees) {
  RandomData random(13);
  const int32_t lengths[] = {1, 0, 17, 300, 2};
  const std::vector<int32_t> offsets = Offsets(lengths);
  const MatrixBuffer x = random.Normal(offsets.back(), 99);
  MatrixBuffer expected(5, 99), actual(5, 99);
  ASSERT_TRUE(reference_->MeanPool(x.view(), offsets, expected.view()).ok());
  ASSERT_TRUE(cpu_->MeanPool(x.view(), offsets, actual.view()).ok());
  ExpectNear(actual.view(), expected.view(), 1e-6f);
}

TEST_F(CpuAgainstReference, PackedBytesFollowThePrecision) {
  RandomData random(14);
  const MatrixBuffer weight = random.Normal(768, 768);
  const auto bytes = [&](Precision precision) {
    return static_cast<double>((*cpu_->Pack(Stored(weight.view()), {}, precision))->bytes());
  };
  const double elements = 768 * 768;
  EXPECT_NEAR(bytes(Precision::kF32) / elements, 4, 0.05);
  EXPECT_NEAR(bytes(Precision::kBF16) / elements, 2, 0.05);
  EXPECT_NEAR(bytes(Precision::kInt8) / elements, 1, 0.05);
}

}  // namespace
}  // namespace thresher
