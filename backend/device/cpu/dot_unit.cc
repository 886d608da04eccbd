#include "backend/device/cpu/dot_unit.h"

#include "hwy/base.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "backend/device/cpu/amx_unit.h"

namespace thresher {
namespace {

constexpr size_t kVectorBytes = 64;
static_assert(kDotTileStep == 2 * kVectorBytes);
// 12 x 2 sums, two vectors of B and one element of A, of 32 registers.
constexpr size_t kTileRows = 12;
// A slice of a tile, so many groups deep, stays in the first-level cache while the rows pass by it.
constexpr size_t kBlockGroups = 128;
// Packed B of few rows is read from its beginning to its end, faster than the processor's own
// prefetching follows.
constexpr size_t kAheadBytes = 2048;

/// The first of as few tiles as hold `rows`, all about as high.
size_t NextTileRows(size_t rows) {
  const size_t tiles = (rows + kTileRows - 1) / kTileRows;
  return (rows + tiles - 1) / tiles;
}

int32_t LoadGroup(const std::byte* from) {
  int32_t group;
  std::memcpy(&group, from, sizeof(group));
  return group;
}

}  // namespace
}  // namespace thresher

// The two sets of kernels are the same text for the same machine words; only Dot differs.
#define THRESHER_DOT_NAMESPACE vnni
#define THRESHER_DOT_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
#define THRESHER_DOT(sum, b, a) _mm512_dpbusd_epi32(sum, a, b)
#define THRESHER_DOT_SUMS_COLUMNS
#include "backend/device/cpu/dot_tiles-inl.h"
#define THRESHER_DOT_NAMESPACE bf16
#define THRESHER_DOT_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
#define THRESHER_DOT(sum, b, a) \
  _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum), (__m512bh)(b), (__m512bh)(a)))
#include "backend/device/cpu/dot_tiles-inl.h"

namespace thresher {
namespace {

// vpdpbusd takes one factor without a sign: A is stored + 128, and each sum begins at -128 times
// the sum of its column of B. Sums may wrap on the way, and are exact at the end.
void MultiplyInt8(const DotTask& task, std::span<const GroupRange> ranges) {
  if (task.col_begin != nullptr) return vnni::Multiply(task, ranges);
  std::array<int32_t, kMaxDotTiles * kDotTileCols> begin;
  DotTask biased = task;
  biased.col_begin = begin.data();
  vnni::SumColumns(task, ranges, begin.data());
  vnni::Multiply(biased, ranges);
}

constexpr DotUnit kVnni = {.multiply = MultiplyInt8, .row_step = kTileRows, .unsigned_a = true};
constexpr DotUnit kBf16 = {.multiply = bf16::Multiply, .row_step = kTileRows};

}  // namespace

const DotUnit* Int8DotUnit(const Isa& isa) {
  if (const DotUnit* amx = Int8AmxUnit(isa); amx != nullptr) return amx;
  return isa.vnni ? &kVnni : nullptr;
}

const DotUnit* BFloat16DotUnit(const Isa& isa) {
  if (const DotUnit* amx = BFloat16AmxUnit(isa); amx != nullptr) return amx;
  return isa.bf16 ? &kBf16 : nullptr;
}

}  // namespace thresher

#else

namespace thresher {

const DotUnit* Int8DotUnit(const Isa&) { return nullptr; }
const DotUnit* BFloat16DotUnit(const Isa&) { return nullptr; }

}  // namespace thresher

#endif
