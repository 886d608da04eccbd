// Units that multiply matrices packed in tiles: AVX-512's dot products (VNNI's vpdpbusd of int8,
// BF16's vdpbf16ps) and AMX's tile products (tdpbssd, tdpbf16ps), behind one function.
//
// A group is what one lane takes in at once: four bytes of a row, be they four int8 or two
// bfloat16. B is packed in tiles of kDotTileCols columns: group after group of K, in each the
// columns' elements side by side. The kernels see bytes; sums are int32_t or float.
//
// By the clock a dot product does four (int8) and two (bfloat16) times as much as a float
// multiply-add, where it runs at full rate (AMD since Zen 4 or 5, Intel's VNNI; Intel's vdpbf16ps
// runs at half of it, so that it gains nothing there); AMX does about 29 and 15 times as much.
//
// Every sum has one order, whatever the rows beside. int8 is exact. Of bfloat16, vdpbf16ps adds
// ascending pairs of K, one product after the other; tdpbf16ps adds 16 pairs in two chains, and
// then both to the sum. Both flush what is subnormal to zero.
#ifndef THRESHER_BACKEND_DEVICE_CPU_DOT_UNIT_H_
#define THRESHER_BACKEND_DEVICE_CPU_DOT_UNIT_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/device/cpu/isa.h"

namespace thresher {

inline constexpr size_t kDotGroupBytes = 4;
inline constexpr size_t kDotTileCols = 32;
/// Of a task of int8.
inline constexpr size_t kMaxDotTiles = 8;
/// From one group of a tile to the next.
inline constexpr size_t kDotTileStep = kDotTileCols * kDotGroupBytes;

/// C[rows, tiles * kDotTileCols] (+)= A[rows, groups] B[groups, tiles * kDotTileCols].
struct DotTask {
  const std::byte* a = nullptr;
  size_t a_stride = 0;  // In bytes.
  size_t rows = 0;
  const std::byte* b = nullptr;  // Tiles, each [groups][kDotTileCols].
  size_t groups = 0;
  size_t tiles = 0;
  std::byte* c = nullptr;
  size_t c_stride = 0;      // In bytes.
  bool accumulate = false;  // Of bfloat16 only.
  // Where A is stored + 128: -128 times the sum of B's columns, over all groups, which `ranges`
  // then is; null: the unit sums what it multiplies.
  const int32_t* col_begin = nullptr;
};

/// A range of K, in groups.
struct GroupRange {
  size_t begin = 0;
  size_t end = 0;
};

/// Multiplies the groups in `ranges`, which ascend and do not overlap. May be called from several
/// threads at once.
using DotMultiply = void (*)(const DotTask& task, std::span<const GroupRange> ranges);

struct DotUnit {
  DotMultiply multiply = nullptr;
  size_t row_step = 1;      // The count of rows that wastes nothing is a multiple of this.
  size_t group_step = 1;    // Ranges begin and end at multiples of this.
  bool unsigned_a = false;  // A's int8 are stored + 128.
};

/// This processor's, or null. They last for ever.
const DotUnit* Int8DotUnit(const Isa& isa);
const DotUnit* BFloat16DotUnit(const Isa& isa);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_DOT_UNIT_H_
