// The loops of AMX products, on a stand-in for the tile registers that does what Intel's manual
// says of each instruction and watches that nothing else is read or written; and, where there is
// AMX, the processor's own.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "backend/device/cpu/amx_tiles-inl.h"
#include "backend/device/cpu/amx_unit.h"
#include "tests/device/random_data.h"

namespace thresher {
namespace {

using testing::RandomData;

/// Registers of 16 rows of 64 bytes, by the configuration in force.
class TileRegisters {
 public:
  void Configure(const TileConfig& config) {
    ASSERT_EQ(config.palette, 1);
    ASSERT_EQ(config.start_row, 0);
    for (size_t tile = 0; tile < 16; ++tile) {
      // Others are general protection faults.
      ASSERT_LE(config.rows[tile], tile < 8 ? 16 : 0);
      ASSERT_LE(config.row_bytes[tile], tile < 8 ? 64 : 0);
      ASSERT_EQ(config.rows[tile] == 0, config.row_bytes[tile] == 0);
    }
    config_ = config;
    configured_ = true;
    data_ = {};
  }
  void Release() { configured_ = false; }
  bool configured() const { return configured_; }
  size_t rows(int tile) const { return config_.rows[tile]; }

  template <typename T>
  T Get(int tile, size_t row, size_t element) const {
    T value;
    std::memcpy(&value, &data_[tile][row][element * sizeof(T)], sizeof(T));
    return value;
  }
  template <typename T>
  void Set(int tile, size_t row, size_t element, T value) {
    std::memcpy(&data_[tile][row][element * sizeof(T)], &value, sizeof(T));
  }
  std::byte* row(int tile, size_t row) { return data_[tile][row].data(); }
  void Use(int tile) const {
    ASSERT_TRUE(configured_);
    ASSERT_GT(rows(tile), 0U) << "tile " << tile << " is not configured";
  }

 private:
  TileConfig config_;
  bool configured_ = false;
  std::array<std::array<std::array<std::byte, 64>, 16>, 8> data_;
};
TileRegisters registers;

struct StandIn {
  static void Configure(const TileConfig& config) { registers.Configure(config); }
  static void Release() { registers.Release(); }
  template <int kTile>
  static void Zero() {
    registers.Use(kTile);
    for (size_t r = 0; r < 16; ++r) std::memset(registers.row(kTile, r), 0, 64);
  }
  template <int kTile>
  static void Load(const std::byte* from, size_t stride) {
    registers.Use(kTile);
    for (size_t r = 0; r < registers.rows(kTile); ++r) {
      std::memcpy(registers.row(kTile, r), from + r * stride, 64);
    }
  }
  template <int kTile>
  static void Store(std::byte* to, size_t stride) {
    registers.Use(kTile);
    for (size_t r = 0; r < registers.rows(kTile); ++r) {
      std::memcpy(to + r * stride, registers.row(kTile, r), 64);
    }
  }
  /// Shapes that do not fit each other are undefined instructions.
  static void Check(int c, int a, int b) {
    for (const int tile : {c, a, b}) registers.Use(tile);
    ASSERT_EQ(registers.rows(c), registers.rows(a));
    ASSERT_EQ(registers.rows(b), 16U);
  }
};

struct StandInInt8 : StandIn {
  template <int kC, int kA, int kB>
  static void Multiply() {
    Check(kC, kA, kB);
    for (size_t m = 0; m < registers.rows(kC); ++m) {
      for (size_t k = 0; k < 16; ++k) {
        for (size_t n = 0; n < 16; ++n) {
          auto sum = registers.Get<int32_t>(kC, m, n);
          for (size_t i = 0; i < 4; ++i) {
            sum += int32_t{registers.Get<int8_t>(kA, m, 4 * k + i)} *
                   registers.Get<int8_t>(kB, k, 4 * n + i);
          }
          registers.Set(kC, m, n, sum);
        }
      }
    }
  }
};

struct StandInBFloat16 : StandIn {
  template <int kC, int kA, int kB>
  static void Multiply() {
    Check(kC, kA, kB);
    for (size_t m = 0; m < registers.rows(kC); ++m) {
      float sums[16][2] = {};
      for (size_t k = 0; k < 16; ++k) {
        for (size_t n = 0; n < 16; ++n) {
          for (size_t i = 0; i < 2; ++i) {
            sums[n][i] += FromBF16(registers.Get<uint16_t>(kA, m, 2 * k + i)) *
                          FromBF16(registers.Get<uint16_t>(kB, k, 2 * n + i));
          }
        }
      }
      for (size_t n = 0; n < 16; ++n) {
        registers.Set(kC, m, n, registers.Get<float>(kC, m, n) + (sums[n][0] + sums[n][1]));
      }
    }
  }
};

/// Operands of a product of integers so small that every sum is exact, in buffers without a byte to
/// spare, and the sums to begin with.
template <typename Element, typename Sum>
struct Operands {
  static constexpr size_t kPerGroup = kDotGroupBytes / sizeof(Element);

  Operands(RandomData& random, size_t rows, size_t groups, size_t tiles)
      : rows(rows), groups(groups), tiles(tiles) {
    const auto fill = [&](auto& elements, size_t count) {
      elements.resize(count);
      for (auto& element : elements) Put(random.Integer(-9, 9), &element);
    };
    fill(a, rows * groups * kPerGroup);
    fill(b, tiles * groups * kDotTileCols * kPerGroup);
    fill(c, rows * tiles * kDotTileCols);
  }

  static void Put(int value, Sum* to) { *to = static_cast<Sum>(value); }
  static void Put(int value, int8_t* to) { *to = static_cast<int8_t>(value); }
  static void Put(int value, uint16_t* to) { *to = ToBF16(static_cast<float>(value)); }
  static Sum Value(int8_t element) { return element; }
  static Sum Value(uint16_t element) { return static_cast<Sum>(FromBF16(element)); }

  DotTask Task(bool accumulate) {
    return {.a = reinterpret_cast<const std::byte*>(a.data()),
            .a_stride = groups * kDotGroupBytes,
            .rows = rows,
            .b = reinterpret_cast<const std::byte*>(b.data()),
            .groups = groups,
            .tiles = tiles,
            .c = reinterpret_cast<std::byte*>(c.data()),
            .c_stride = tiles * kDotTileStep,
            .accumulate = accumulate};
  }

  std::vector<Sum> Expected(std::span<const GroupRange> ranges, bool accumulate) const {
    const size_t cols = tiles * kDotTileCols;
    std::vector<Sum> sums(rows * cols);
    if (accumulate) sums = c;
    for (const GroupRange& range : ranges) {
      for (size_t r = 0; r < rows; ++r) {
        for (size_t n = 0; n < cols; ++n) {
          for (size_t k = range.begin * kPerGroup; k < range.end * kPerGroup; ++k) {
            const size_t group = n / kDotTileCols * groups + k / kPerGroup;
            const size_t in_b = (group * kDotTileCols + n % kDotTileCols) * kPerGroup;
            sums[r * cols + n] +=
                Value(a[r * groups * kPerGroup + k]) * Value(b[in_b + k % kPerGroup]);
          }
        }
      }
    }
    return sums;
  }

  size_t rows, groups, tiles;
  std::vector<Element> a, b;
  std::vector<Sum> c;
};

template <typename Element, typename Sum>
void ExpectRight(DotMultiply multiply) {
  RandomData random(1);
  for (const size_t rows : {1, 5, 15, 16, 17, 31, 32, 33, 48, 49, 100}) {
    for (const size_t groups : {16, 48, 240}) {
      for (const bool accumulate : {false, true}) {
        SCOPED_TRACE(fmt::format("{} rows, {} groups, accumulate: {}", rows, groups, accumulate));
        Operands<Element, Sum> operands(random, rows, groups, 1 + rows % 3);
        const std::vector<GroupRange> ranges = groups == 240
                                                   ? std::vector<GroupRange>{{0, 16}, {32, 240}}
                                                   : std::vector<GroupRange>{{0, groups}};
        const std::vector<Sum> expected = operands.Expected(ranges, accumulate);
        multiply(operands.Task(accumulate), ranges);
        ASSERT_EQ(operands.c, expected);
        ASSERT_FALSE(registers.configured()) << "tile registers were not released";
      }
    }
  }
}

TEST(AmxTiles, ProductsOfInt8AreExactInEveryShape) {
  ExpectRight<int8_t, int32_t>(AmxMultiply<StandInInt8>);
}

TEST(AmxTiles, ProductsOfBFloat16AreExactOnIntegersInEveryShape) {
  ExpectRight<uint16_t, float>(AmxMultiply<StandInBFloat16>);
}

TEST(AmxTiles, ARowHasTheSameBitsAmongAnyOthers) {
  RandomData random(2);
  Operands<uint16_t, float> operands(random, 70, 256, 2);
  for (std::vector<uint16_t>* elements : {&operands.a, &operands.b}) {
    const MatrixBuffer values = random.Normal(1, static_cast<int64_t>(elements->size()));
    std::ranges::transform(values.view().row_span(0), elements->begin(), ToBF16);
  }
  const std::vector<GroupRange> all = {{0, 256}};
  AmxMultiply<StandInBFloat16>(operands.Task(false), all);
  const std::vector<float> together = operands.c;
  for (const auto& [first, rows] : {std::pair(0, 1), std::pair(3, 20), std::pair(31, 39)}) {
    Operands<uint16_t, float> part = operands;
    DotTask task = part.Task(false);
    task.a += static_cast<size_t>(first) * task.a_stride;
    task.c += static_cast<size_t>(first) * task.c_stride;
    task.rows = static_cast<size_t>(rows);
    AmxMultiply<StandInBFloat16>(task, all);
    EXPECT_EQ(part.c, together) << first << ", " << rows;
  }
}

TEST(AmxUnit, TheProcessorDoesWhatTheManualSays) {
  if (!DetectedIsa()->amx) GTEST_SKIP() << "no AMX: " << DetectedIsa()->name;
  const DotUnit* const int8 = Int8AmxUnit(*DetectedIsa());
  const DotUnit* const bf16 = BFloat16AmxUnit(*DetectedIsa());
  ASSERT_NE(int8, nullptr);
  ASSERT_NE(bf16, nullptr);
  ExpectRight<int8_t, int32_t>(int8->multiply);
  ExpectRight<uint16_t, float>(bf16->multiply);
}

TEST(AmxUnit, IsNoneWithoutAmx) {
  EXPECT_EQ(Int8AmxUnit(Isa{.name = "avx512+bf16", .vnni = true, .bf16 = true}), nullptr);
  EXPECT_EQ(BFloat16AmxUnit(Isa{.name = "avx512+bf16", .vnni = true, .bf16 = true}), nullptr);
}

}  // namespace
}  // namespace thresher
