// Products by dot-product instructions: exact on small integers, right on anything, the same bits
// in any batch.
#include "backend/device/cpu/dot_product.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "backend/device/cpu/highway_product.h"
#include "tests/device/product_testing.h"
#include "tests/device/random_data.h"

namespace thresher {
namespace {

using testing::MultiplyAll;
using testing::RandomData;

/// This processor's; the test of a precision that it has no instruction for is skipped.
const Isa& ThisIsa() { return *DetectedIsa(); }

const DotUnit* UnitOf(Precision precision) {
  return precision == Precision::kInt8 ? Int8DotUnit(ThisIsa()) : BFloat16DotUnit(ThisIsa());
}

/// A weight [out, in], which int8 takes over as it is: each row's largest element is 127.
std::vector<float> SmallIntegers(RandomData& random, int64_t in, int64_t out) {
  std::vector<float> weight(static_cast<size_t>(in * out));
  for (float& value : weight) value = static_cast<float>(random.Integer(-127, 127));
  for (int64_t o = 0; o < out; ++o) weight[o * in + o % in] = o % 2 == 0 ? 127 : -127;
  return weight;
}

/// Rows of integers in the product's form, `stride` elements apart, zero beyond `in`.
std::vector<std::byte> SourceOf(const Product& product, const std::vector<int>& values, int64_t in,
                                int64_t stride) {
  const auto rows = static_cast<int64_t>(values.size()) / in;
  const size_t element = SourceElementSize(product.source_form());
  const bool is_unsigned = product.source_form() == SourceForm::kU8;
  std::vector<std::byte> source(static_cast<size_t>(rows * stride) * element,
                                is_unsigned ? std::byte{128} : std::byte{0});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < in; ++i) {
      const int value = values[r * in + i];
      std::byte* const to = source.data() + static_cast<size_t>(r * stride + i) * element;
      const uint16_t half = ToBF16(static_cast<float>(value));
      if (element == 2) std::memcpy(to, &half, sizeof(half));
      if (element == 1) *to = static_cast<std::byte>(is_unsigned ? value + 128 : value);
    }
  }
  return source;
}

class DotProductTest : public ::testing::TestWithParam<Precision> {
 protected:
  std::unique_ptr<Product> Pack(const std::vector<float>& weight, int64_t in) {
    WeightRows rows({DType::kF32, weight.data(), static_cast<int64_t>(weight.size()) / in, in},
                    GetParam());
    const DotUnit* const unit = UnitOf(GetParam());
    return unit != nullptr ? PackDotProduct(*unit, rows, scales_) : nullptr;
  }

  std::vector<double> AsDouble(const Product& product, std::span<const std::byte> source,
                               int64_t stride, int64_t first, int64_t rows, int64_t cols,
                               std::span<const ColumnRange> columns = {}) {
    const auto widen = [](const auto& sums) {
      return std::vector<double>(sums.begin(), sums.end());
    };
    if (GetParam() == Precision::kInt8) {
      return widen(MultiplyAll<int32_t>(product, source, stride, first, rows, cols, columns));
    }
    return widen(MultiplyAll<float>(product, source, stride, first, rows, cols, columns));
  }

  std::vector<float> scales_;
};

TEST_P(DotProductTest, IsExactOnIntegersAndTheSameInAnyBatch) {
  RandomData random(1);
  for (const auto& [in, out] : {std::pair(1, 1), std::pair(5, 31), std::pair(63, 33),
                                std::pair(130, 192), std::pair(700, 400)}) {
    SCOPED_TRACE(fmt::format("{} -> {}", in, out));
    const std::vector<float> weight = SmallIntegers(random, in, out);
    const auto product = Pack(weight, in);
    if (product == nullptr) GTEST_SKIP() << "no such instruction: " << ThisIsa().name;
    ASSERT_GE(product->source_cols(), in);
    const auto step = static_cast<int64_t>(UnitOf(GetParam())->group_step * kDotGroupBytes);
    ASSERT_LT(product->source_cols(), in + step);
    const int64_t rows = 270, stride = product->source_cols() + 8;
    std::vector<int> x(static_cast<size_t>(rows * in));
    for (int& value : x) value = random.Integer(-127, 127);
    const std::vector<std::byte> source = SourceOf(*product, x, in, stride);
    const std::vector<double> all = AsDouble(*product, source, stride, 0, rows, out);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < out; ++o) {
        int64_t exact = 0;
        for (int64_t i = 0; i < in; ++i) {
          exact += int64_t{x[r * in + i]} * static_cast<int64_t>(weight[o * in + i]);
        }
        ASSERT_EQ(all[r * out + o], static_cast<double>(exact)) << r << ", " << o;
      }
    }
    for (int64_t count = 1; count <= 26; ++count) {
      const auto part = AsDouble(*product, source, stride, 9, count, out);
      EXPECT_TRUE(std::ranges::equal(part, std::span(all).subspan(9 * out, part.size()))) << count;
    }
  }
}

TEST_P(DotProductTest, PassesOverColumnsThatAreZero) {
  RandomData random(2);
  const int64_t in = 1024, out = 64, rows = 30;
  const std::vector<float> weight = SmallIntegers(random, in, out);
  const auto product = Pack(weight, in);
  if (product == nullptr) GTEST_SKIP() << "no such instruction: " << ThisIsa().name;
  const ColumnRange columns[] = {{4, 8}, {64, 640}, {700, 1024}};
  std::vector<int> x(static_cast<size_t>(rows * in), 0);
  for (int64_t r = 0; r < rows; ++r) {
    for (const ColumnRange& range : columns) {
      for (int64_t i = range.begin; i < range.end; ++i) x[r * in + i] = random.Integer(-127, 127);
    }
  }
  const std::vector<std::byte> source = SourceOf(*product, x, in, in);
  for (const int64_t count : {1, 4, 12, 30}) {
    EXPECT_EQ(AsDouble(*product, source, in, 0, count, out, columns),
              AsDouble(*product, source, in, 0, count, out));
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, DotProductTest,
                         ::testing::Values(Precision::kBF16, Precision::kInt8),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST(DotProduct, Int8IsExactWhereTheSumsWrapOnTheWay) {
  // Of weights + 128 the sums go beyond 2^31 and come back.
  const int64_t in = 100000;
  const std::vector<float> weight(static_cast<size_t>(in), 127.0f);
  WeightRows rows({DType::kF32, weight.data(), 1, in}, Precision::kInt8);
  std::vector<float> scales;
  const DotUnit* const unit = UnitOf(Precision::kInt8);
  if (unit == nullptr) GTEST_SKIP() << "no VNNI: " << ThisIsa().name;
  const auto product = PackDotProduct(*unit, rows, scales);
  const int64_t stride = product->source_cols();
  for (const int value : {127, -127}) {
    const std::vector<std::byte> source =
        SourceOf(*product, std::vector<int>(static_cast<size_t>(in), value), in, stride);
    EXPECT_EQ(MultiplyAll<int32_t>(*product, source, stride, 0, 1, 1)[0], 127 * value * in);
  }
}

TEST(DotProduct, Int8AgreesWithHighwaysBitForBit) {
  RandomData random(3);
  const MatrixBuffer weight = random.Normal(192, 256);
  WeightRows rows(testing::Stored(weight.view()), Precision::kInt8);
  std::vector<float> scales, other_scales;
  const DotUnit* const unit = UnitOf(Precision::kInt8);
  if (unit == nullptr) GTEST_SKIP() << "no VNNI: " << ThisIsa().name;
  const auto product = PackDotProduct(*unit, rows, scales);
  const auto other = PackHighwayProduct(rows, other_scales);
  EXPECT_EQ(scales, other_scales);
  std::vector<int> values(50 * 256);
  std::vector<std::byte> shorts(50 * 256 * 2);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto value = static_cast<int16_t>(random.Integer(-127, 127));
    values[i] = value;
    std::memcpy(&shorts[i * 2], &value, 2);
  }
  const std::vector<std::byte> bytes = SourceOf(*product, values, 256, 256);
  EXPECT_EQ(MultiplyAll<int32_t>(*product, bytes, 256, 0, 50, 192),
            MultiplyAll<int32_t>(*other, shorts, 256, 0, 50, 192));
}

TEST(DotProduct, BFloat16IsNearTheExactSum) {
  RandomData random(4);
  const int64_t in = 768, out = 96, rows = 17;
  const MatrixBuffer weight = random.Normal(out, in), x = random.Normal(rows, in);
  WeightRows weight_rows(testing::Stored(weight.view()), Precision::kBF16);
  std::vector<float> scales;
  const DotUnit* const unit = UnitOf(Precision::kBF16);
  if (unit == nullptr) GTEST_SKIP() << "no BF16: " << ThisIsa().name;
  const auto product = PackDotProduct(*unit, weight_rows, scales);
  std::vector<std::byte> source(static_cast<size_t>(rows * in) * 2);
  for (int64_t i = 0; i < rows * in; ++i) {
    const uint16_t half = ToBF16(x.view().row(i / in)[i % in]);
    std::memcpy(&source[static_cast<size_t>(i) * 2], &half, 2);
  }
  const std::vector<float> sums = MultiplyAll<float>(*product, source, in, 0, rows, out);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < out; ++o) {
      double exact = 0, size = 0;
      for (int64_t i = 0; i < in; ++i) {
        const double term = double{FromBF16(ToBF16(x.view().row(r)[i]))} *
                            FromBF16(ToBF16(weight.view().row(o)[i]));
        exact += term;
        size += std::abs(term);
      }
      // Each of in additions rounds once.
      EXPECT_NEAR(sums[r * out + o], exact, size * static_cast<double>(in) * 6e-8);
    }
  }
}

TEST(DotUnit, IsNoneWhereThereIsNoInstruction) {
  EXPECT_EQ(Int8DotUnit(Isa{.name = "avx512"}), nullptr);
  EXPECT_EQ(BFloat16DotUnit(Isa{.name = "avx512+vnni", .vnni = true}), nullptr);
}

}  // namespace
}  // namespace thresher
