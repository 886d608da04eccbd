// The loops of products on AMX's tile registers, for the instructions of a `Tiles`: the processor's
// (amx_unit.cc), or a stand-in that computes what the manual says (tests/device/amx_tiles_test.cc).
// Names and meanings follow the Intel 64 and IA-32 Architectures Software Developer's Manual,
// volume 1, chapter 18, and volume 2 (LDTILECFG, TILELOADD, TDPBSSD, TDPBF16PS).
//
// A `Tiles` has, all static, with numbers of registers as template arguments:
//   Configure(const TileConfig&), Release()
//   Zero<tile>(), Load<tile>(from, stride), Store<tile>(to, stride), strides in bytes
//   Multiply<c, a, b>(): c += a b
#ifndef THRESHER_BACKEND_DEVICE_CPU_AMX_TILES_INL_H_
#define THRESHER_BACKEND_DEVICE_CPU_AMX_TILES_INL_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/device/cpu/dot_unit.h"

namespace thresher {

/// Palette 1: up to 16 rows of up to 64 bytes in each of eight registers.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

inline constexpr size_t kAmxRows = 16;
inline constexpr size_t kAmxRowBytes = 64;
inline constexpr size_t kAmxGroups = kAmxRowBytes / kDotGroupBytes;
// Of B, so many groups of a tile of kDotTileCols columns, half of a first-level cache of 48 KiB,
// stay in it while the rows pass by.
inline constexpr size_t kAmxBlockGroups = 192;

// Registers: 0 to 3 are sums, of two tiles of rows by two of columns; 4 and 5 are A's rows, 6 and 7
// B's columns.
inline TileConfig AmxConfig(size_t upper_rows, size_t lower_rows) {
  TileConfig config;
  for (const size_t tile : {0, 1, 4}) config.rows[tile] = static_cast<uint8_t>(upper_rows);
  for (const size_t tile : {2, 3, 5}) config.rows[tile] = static_cast<uint8_t>(lower_rows);
  for (const size_t tile : {6, 7}) config.rows[tile] = kAmxGroups;
  for (size_t tile = 0; tile < 8; ++tile) {
    if (config.rows[tile] > 0) config.row_bytes[tile] = kAmxRowBytes;
  }
  return config;
}

/// Groups [range) of one tile of B, by one or two tiles of rows from `row` on.
template <typename Tiles, bool kLower>
void AmxBlock(const DotTask& task, GroupRange range, size_t row, size_t tile, bool accumulate) {
  const std::byte* const a = task.a + row * task.a_stride;
  const std::byte* const b = task.b + tile * task.groups * kDotTileStep;
  std::byte* const c = task.c + row * task.c_stride + tile * kDotTileStep;
  const size_t lower_a = kAmxRows * task.a_stride;
  std::byte* const lower_c = c + kAmxRows * task.c_stride;
  if (accumulate) {
    Tiles::template Load<0>(c, task.c_stride);
    Tiles::template Load<1>(c + kAmxRowBytes, task.c_stride);
    if constexpr (kLower) {
      Tiles::template Load<2>(lower_c, task.c_stride);
      Tiles::template Load<3>(lower_c + kAmxRowBytes, task.c_stride);
    }
  } else {
    Tiles::template Zero<0>();
    Tiles::template Zero<1>();
    if constexpr (kLower) {
      Tiles::template Zero<2>();
      Tiles::template Zero<3>();
    }
  }
  for (size_t g = range.begin; g < range.end; g += kAmxGroups) {
    Tiles::template Load<6>(b + g * kDotTileStep, kDotTileStep);
    Tiles::template Load<4>(a + g * kDotGroupBytes, task.a_stride);
    Tiles::template Load<7>(b + g * kDotTileStep + kAmxRowBytes, kDotTileStep);
    Tiles::template Multiply<0, 4, 6>();
    Tiles::template Multiply<1, 4, 7>();
    if constexpr (kLower) {
      Tiles::template Load<5>(a + lower_a + g * kDotGroupBytes, task.a_stride);
      Tiles::template Multiply<2, 5, 6>();
      Tiles::template Multiply<3, 5, 7>();
    }
  }
  Tiles::template Store<0>(c, task.c_stride);
  Tiles::template Store<1>(c + kAmxRowBytes, task.c_stride);
  if constexpr (kLower) {
    Tiles::template Store<2>(lower_c, task.c_stride);
    Tiles::template Store<3>(lower_c + kAmxRowBytes, task.c_stride);
  }
}

/// Rows [first, end), `step` at a time, which the configuration in force is for.
template <typename Tiles, bool kLower>
void AmxRowsOf(const DotTask& task, std::span<const GroupRange> ranges, size_t first, size_t end,
               size_t step) {
  // Few rows read B once, from its beginning to its end; many pass by a slice of all tiles.
  const bool few = end - first <= step;
  const size_t depth = few ? task.groups : kAmxBlockGroups;
  bool begun = task.accumulate;
  for (const GroupRange& range : ranges) {
    for (size_t g = range.begin; g < range.end; g += depth) {
      const GroupRange block = {.begin = g, .end = std::min(range.end, g + depth)};
      for (size_t tile = 0; tile < task.tiles; ++tile) {
        for (size_t row = first; row < end; row += step) {
          AmxBlock<Tiles, kLower>(task, block, row, tile, begun);
        }
      }
      begun = true;
    }
  }
}

/// DotUnit::multiply, of ranges of whole kAmxGroups. Leaves the registers released.
template <typename Tiles>
void AmxMultiply(const DotTask& task, std::span<const GroupRange> ranges) {
  const size_t whole = task.rows / (2 * kAmxRows) * (2 * kAmxRows);
  const size_t rest = task.rows - whole;
  if (whole > 0) {
    Tiles::Configure(AmxConfig(kAmxRows, kAmxRows));
    AmxRowsOf<Tiles, true>(task, ranges, 0, whole, 2 * kAmxRows);
  }
  if (rest > kAmxRows) {
    Tiles::Configure(AmxConfig(kAmxRows, rest - kAmxRows));
    AmxRowsOf<Tiles, true>(task, ranges, whole, task.rows, rest);
  } else if (rest > 0) {
    Tiles::Configure(AmxConfig(rest, 0));
    AmxRowsOf<Tiles, false>(task, ranges, whole, task.rows, rest);
  }
  Tiles::Release();
}

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_AMX_TILES_INL_H_
