// The steps of attention that its kernels share, for Highway's current target (included once for
// each): keys and values packed in tiles, the running softmax of a row, the end of a row.
#if defined(THRESHER_DEVICE_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef THRESHER_DEVICE_CPU_ATTENTION_INL_H_
#undef THRESHER_DEVICE_CPU_ATTENTION_INL_H_
#else
#define THRESHER_DEVICE_CPU_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "backend/device/cpu/gemm-inl.h"
#include "backend/device/cpu/vector_math-inl.h"
#include "backend/tensor/matrix.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {

// Keys of one block: a multiple of every target's tile width. One head's packed K and V of a block
// fit the second-level cache and nearly the first.
inline constexpr size_t kKeyBlock = 128;

inline size_t PaddedCols(size_t cols) {
  const size_t tile = TileCols();
  return (cols + tile - 1) / tile * tile;
}

/// Where the pieces of a task's scratch lie: offsets in floats, each a multiple of 64 bytes.
struct ScratchLayout {
  size_t size = 0;

  /// The offset of another piece, of `count` floats.
  size_t Take(size_t count) {
    const size_t offset = size;
    size += (count + 15) / 16 * 16;
    return offset;
  }
};

/// Bit j of a row of bits, 64 a word.
inline bool TestBit(const uint64_t* bits, size_t j) { return (bits[j / 64] >> (j % 64)) & 1; }

/// K^T in tiles; columns beyond the last key are zero.
inline void PackKeys(ConstMatrix key, float* out) {
  const size_t tile = TileCols();
  const auto keys = static_cast<size_t>(key.rows), dim = static_cast<size_t>(key.cols);
  for (size_t first = 0; first < keys; first += tile, out += dim * tile) {
    const size_t count = std::min(tile, keys - first);
    if (count < tile) std::fill_n(out, dim * tile, 0.0f);
    for (size_t j = 0; j < count; ++j) {
      const float* row = key.row(static_cast<int64_t>(first + j));
      for (size_t i = 0; i < dim; ++i) out[i * tile + j] = row[i];
    }
  }
}

/// V in tiles; columns beyond the last dimension are zero, and so are, without being read, the rows
/// whose bit of `wanted` (unless null) is not set.
inline void PackValues(ConstMatrix value, const uint64_t* wanted, float* out) {
  const size_t tile = TileCols();
  const auto keys = static_cast<size_t>(value.rows), dim = static_cast<size_t>(value.cols);
  for (size_t first = 0; first < dim; first += tile) {
    const size_t count = std::min(tile, dim - first);
    for (size_t j = 0; j < keys; ++j, out += tile) {
      if (wanted != nullptr && !TestBit(wanted, j)) {
        std::fill_n(out, tile, 0.0f);
        continue;
      }
      std::copy_n(value.row(static_cast<int64_t>(j)) + first, count, out);
      std::fill_n(out + count, tile - count, 0.0f);
    }
  }
}

/// Makes of the first `valid` scores e^(scale * score + bias - largest), and 0 of the rest of
/// `width` (whole vectors), in `weights`, which may be `scores`; updates the running maximum and
/// sum. `bias` has whole vectors too, and is none if null.
/// Returns what earlier sums of this row must be multiplied by. Only scores whose bit of
/// `candidates` (unless null) is set count. One NaN among them makes the sum NaN.
inline float SoftmaxRow(float* scores, const uint64_t* candidates, size_t valid, size_t width,
                        float scale, float& largest, float& total, float* weights,
                        const float* bias = nullptr) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const auto factor = hn::Set(d, scale);
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto highest = hn::Set(d, largest);
  for (size_t i = 0; i < valid; i += lanes) {
    auto s = hn::Mul(hn::Load(d, scores + i), factor);
    if (bias != nullptr) s = hn::Add(s, hn::LoadU(d, bias + i));
    if (i + lanes > valid) s = hn::IfThenElse(hn::FirstN(d, valid - i), s, lowest);
    if (candidates != nullptr) {
      const uint64_t bits = candidates[i / 64] >> (i % 64);
      s = hn::IfThenElse(hn::LoadMaskBits(d, reinterpret_cast<const uint8_t*>(&bits)), s, lowest);
    }
    hn::Store(s, d, scores + i);
    highest = hn::Max(highest, s);
  }
  const float before = largest;
  largest = hn::GetLane(hn::MaxOfLanes(d, highest));
  size_t i = 0;
  float correction = 1.0f;
  if (candidates == nullptr || largest != -std::numeric_limits<float>::infinity()) {
    const auto shift = hn::Set(d, largest);
    auto sum = hn::Zero(d);
    for (; i < valid; i += lanes) {
      const auto x = hn::Sub(hn::Load(d, scores + i), shift);
      const auto e = hn::IfThenElse(hn::IsNaN(x), x, ExpOf(x));
      hn::Store(e, d, weights + i);
      sum = hn::Add(sum, e);
    }
    // At the first block this is e^-infinity = 0.
    if (before != largest) correction = hn::GetLane(ExpOf(hn::Set(d, before - largest)));
    total = total * correction + hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (; i < width; i += lanes) hn::Store(hn::Zero(d), d, weights + i);
  return correction;
}

inline void ScaleInPlace(float factor, size_t cols, float* row) {
  const F32 d;
  for (size_t i = 0; i < cols; i += hn::Lanes(d)) {
    hn::Store(hn::Mul(hn::Load(d, row + i), hn::Set(d, factor)), d, row + i);
  }
}

/// out = sums / total.
inline void FinishRow(const float* sums, float total, size_t dim, float* out) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const auto inverse = hn::Set(d, 1.0f / total);
  for (size_t i = 0; i < dim; i += lanes) {
    StorePart(hn::Mul(hn::Load(d, sums + i), inverse), d, out + i, std::min(lanes, dim - i));
  }
}

}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // THRESHER_DEVICE_CPU_ATTENTION_INL_H_
