#include "backend/tensor/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace thresher {
namespace {

TEST(BF16, RoundsToNearestWithTiesToEven) {
  EXPECT_EQ(ToBF16(1.0f), 0x3f80);
  EXPECT_EQ(ToBF16(std::bit_cast<float>(0x3f808000u)),
            0x3f80);  // A tie: the even neighbour is below.
  EXPECT_EQ(ToBF16(std::bit_cast<float>(0x3f818000u)),
            0x3f82);  // A tie: the even neighbour is above.
  EXPECT_EQ(ToBF16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(ToBF16(-0.0f), 0x8000);
  EXPECT_EQ(ToBF16(std::numeric_limits<float>::max()), 0x7f80);  // Rounds over to infinity.
}

TEST(BF16, KeepsInfinityAndNaN) {
  EXPECT_EQ(FromBF16(ToBF16(std::numeric_limits<float>::infinity())),
            std::numeric_limits<float>::infinity());
  // A NaN whose payload is only in the lower half must not become infinity.
  EXPECT_TRUE(std::isnan(FromBF16(ToBF16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(BF16, EveryValueSurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const float value = FromBF16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(ToBF16(value), bits);
  }
}

TEST(F16, MatchesTheDefinitionForEveryPattern) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const int exponent = static_cast<int>((bits >> 10) & 0x1f);
    const int mantissa = static_cast<int>(bits & 0x3ff);
    const float value = FromF16(static_cast<uint16_t>(bits));
    if (exponent == 31) {
      ASSERT_EQ(std::isnan(value), mantissa != 0);
      ASSERT_EQ(std::isinf(value), mantissa == 0);
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_EQ(value, static_cast<float>((bits & 0x8000) != 0 ? -magnitude : magnitude)) << bits;
    ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0);
  }
}

TEST(ToFloat, ReadsUnalignedSources) {
  const std::vector<double> doubles = {1.5, -2.25, 1e10};
  std::vector<unsigned char> bytes(1 + doubles.size() * sizeof(double));
  std::memcpy(bytes.data() + 1, doubles.data(), doubles.size() * sizeof(double));
  std::vector<float> out(3);
  ToFloat(DType::kF64, bytes.data() + 1, 3, out.data());
  EXPECT_EQ(out, (std::vector<float>{1.5f, -2.25f, 1e10f}));
  const std::vector<uint16_t> halves = {0x3c00, 0xc000};
  std::memcpy(bytes.data() + 1, halves.data(), 4);
  ToFloat(DType::kF16, bytes.data() + 1, 2, out.data());
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -2.0f);
}

TEST(DType, SizesAndNamesAreThoseOfSafetensors) {
  EXPECT_EQ(ElementSize(DType::kBF16), 2u);
  EXPECT_EQ(ElementSize(DType::kI64), 8u);
  EXPECT_EQ(Name(DType::kBF16), "BF16");
  EXPECT_EQ(Name(DType::kBool), "BOOL");
}

}  // namespace
}  // namespace thresher
