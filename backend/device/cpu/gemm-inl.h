// The inner loops of matrix products, for Highway's current target (included once for each).
//
// C[rows, kTileCols] (+)= A[rows, k] B[k, kTileCols]: A is row-major and read as it lies; B is
// packed, row k of a tile contiguous. Every element of C is one chain c = a * b + c over ascending
// k, whatever the number of rows: this is what makes products batch-invariant. A long k may be done
// in pieces through `accumulate` without changing a bit, since C is as wide as the accumulators.
#if defined(THRESHER_DEVICE_CPU_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef THRESHER_DEVICE_CPU_GEMM_INL_H_
#undef THRESHER_DEVICE_CPU_GEMM_INL_H_
#else
#define THRESHER_DEVICE_CPU_GEMM_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using IntTag = hn::ScalableTag<int32_t>;

// Two vectors of columns by as many rows as leave registers for B and one element of A: 6 x 2
// accumulators of 16 registers, 12 x 2 of 32.
#if HWY_TARGET <= HWY_AVX3
inline constexpr size_t kTileRows = 12;
#else
inline constexpr size_t kTileRows = 6;
#endif
inline size_t TileCols() { return 2 * hn::Lanes(FloatTag()); }

/// Packed B is read from its beginning to its end, tile after tile, which the processor's own
/// prefetching follows too late while it is busy with several rows.
template <typename TB>
HWY_INLINE void PrefetchB(const TB* b) {
  constexpr size_t kAhead = 2048;
  __builtin_prefetch(reinterpret_cast<const char*>(b) + kAhead);
}

/// Two vectors of packed B as float.
HWY_INLINE void LoadB(const float* b, hn::Vec<FloatTag>& b0, hn::Vec<FloatTag>& b1) {
  const FloatTag d;
  b0 = hn::LoadU(d, b);
  b1 = hn::LoadU(d, b + hn::Lanes(d));
}
/// bfloat16 is the upper half of a float.
HWY_INLINE void LoadB(const uint16_t* b, hn::Vec<FloatTag>& b0, hn::Vec<FloatTag>& b1) {
  const FloatTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  const hn::Rebind<uint16_t, FloatTag> half;
  b0 = hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(half, b))));
  b1 = hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(half, b + hn::Lanes(d)))));
}

/// `kTiles` neighbouring tiles of `kRows` rows, `tile_stride` elements of B apart. B is float or
/// bfloat16. One tile of a few rows would mostly wait for its own few chains of additions.
template <size_t kRows, size_t kTiles, typename TB>
HWY_INLINE void FloatTiles(const float* HWY_RESTRICT a, size_t a_stride, const TB* HWY_RESTRICT b,
                           size_t tile_stride, size_t k, bool accumulate, float* HWY_RESTRICT c,
                           size_t c_stride) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  hn::Vec<FloatTag> sum[kRows][kTiles][2];
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (size_t t = 0; t < kTiles; ++t) {
      const float* from = c + r * c_stride + t * 2 * lanes;
      sum[r][t][0] = accumulate ? hn::LoadU(d, from) : hn::Zero(d);
      sum[r][t][1] = accumulate ? hn::LoadU(d, from + lanes) : hn::Zero(d);
    }
  }
  for (size_t i = 0; i < k; ++i) {
#pragma GCC unroll 16
    for (size_t t = 0; t < kTiles; ++t) {
      const TB* from = b + t * tile_stride + i * 2 * lanes;
      PrefetchB(from);
      hn::Vec<FloatTag> b0, b1;
      LoadB(from, b0, b1);
#pragma GCC unroll 16
      for (size_t r = 0; r < kRows; ++r) {
        const auto ar = hn::Set(d, a[r * a_stride + i]);
        sum[r][t][0] = hn::MulAdd(ar, b0, sum[r][t][0]);
        sum[r][t][1] = hn::MulAdd(ar, b1, sum[r][t][1]);
      }
    }
  }
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (size_t t = 0; t < kTiles; ++t) {
      float* to = c + r * c_stride + t * 2 * lanes;
      hn::StoreU(sum[r][t][0], d, to);
      hn::StoreU(sum[r][t][1], d, to + lanes);
    }
  }
}

/// A vector of packed B as int16.
HWY_INLINE hn::Vec<hn::Repartition<int16_t, IntTag>> LoadPairs(const int8_t* b) {
  const hn::Repartition<int16_t, IntTag> d16;
  return hn::PromoteTo(d16, hn::LoadU(hn::Rebind<int8_t, decltype(d16)>(), b));
}
HWY_INLINE hn::Vec<hn::Repartition<int16_t, IntTag>> LoadPairs(const int16_t* b) {
  return hn::LoadU(hn::Repartition<int16_t, IntTag>(), b);
}

/// A tile in integers, exact: A is 8-bit values in int16 pairs, k is even, and B holds for each
/// pair of k its columns' two values side by side.
template <size_t kRows, typename TB>
HWY_INLINE void IntTile(const int16_t* HWY_RESTRICT a, size_t a_stride, const TB* HWY_RESTRICT b,
                        size_t k, bool accumulate, int32_t* HWY_RESTRICT c, size_t c_stride) {
  const IntTag d;
  const hn::Repartition<int16_t, IntTag> d16;
  const size_t lanes = hn::Lanes(d);
  // The second sum is unused where the instruction adds both halves of a pair at once (x86).
  hn::Vec<IntTag> sum[kRows][2], other[kRows][2];
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r) {
    sum[r][0] = sum[r][1] = other[r][0] = other[r][1] = hn::Zero(d);
  }
  for (size_t i = 0; i < k; i += 2) {
    const TB* pair = b + i * 2 * lanes;
    PrefetchB(pair);
    const auto b0 = LoadPairs(pair);
    const auto b1 = LoadPairs(pair + 2 * lanes);
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r) {
      int32_t both;
      std::memcpy(&both, a + r * a_stride + i, sizeof(both));
      const auto ar = hn::BitCast(d16, hn::Set(d, both));
      sum[r][0] = hn::ReorderWidenMulAccumulate(d, ar, b0, sum[r][0], other[r][0]);
      sum[r][1] = hn::ReorderWidenMulAccumulate(d, ar, b1, sum[r][1], other[r][1]);
    }
  }
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r) {
    int32_t* row = c + r * c_stride;
    auto c0 = hn::RearrangeToOddPlusEven(sum[r][0], other[r][0]);
    auto c1 = hn::RearrangeToOddPlusEven(sum[r][1], other[r][1]);
    if (accumulate) {
      c0 = hn::Add(c0, hn::LoadU(d, row));
      c1 = hn::Add(c1, hn::LoadU(d, row + lanes));
    }
    hn::StoreU(c0, d, row);
    hn::StoreU(c1, d, row + lanes);
  }
}

template <size_t kRows, typename TA, typename TB, typename TC>
HWY_NOINLINE void Tile(const TA* a, size_t a_stride, const TB* b, size_t k, bool accumulate, TC* c,
                       size_t c_stride) {
  if constexpr (sizeof(TA) == sizeof(float)) {
    FloatTiles<kRows, 1>(a, a_stride, b, 0, k, accumulate, c, c_stride);
  } else {
    IntTile<kRows>(a, a_stride, b, k, accumulate, c, c_stride);
  }
}

/// Tile for `rows` <= kTileRows known at run time.
template <size_t kRows = kTileRows, typename TA, typename TB, typename TC>
HWY_INLINE void TileOfRows(size_t rows, const TA* a, size_t a_stride, const TB* b, size_t k,
                           bool accumulate, TC* c, size_t c_stride) {
  if (rows == kRows) {
    Tile<kRows>(a, a_stride, b, k, accumulate, c, c_stride);
  } else if constexpr (kRows > 1) {
    TileOfRows<kRows - 1>(rows, a, a_stride, b, k, accumulate, c, c_stride);
  }
}

}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // THRESHER_DEVICE_CPU_GEMM_INL_H_
