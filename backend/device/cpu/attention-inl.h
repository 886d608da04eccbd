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

#include "backend/device/cpu/bf16_pack.h"
#include "backend/device/cpu/dot_unit.h"
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

/// Softmax is made of powers of 2: what to scale scores by for powers of e.
inline float BaseTwo(float scale) { return scale * 1.44269504089f; }

/// Makes of the first `valid` scores 2^(scale * score + bias - largest), and 0 of the rest of
/// `width` (whole vectors), in `weights`, which may be `scores`; else `scores` keep the exponents.
/// Updates the running maximum and sum. `bias` has whole vectors too, and is none if null. Returns
/// what earlier sums of this row must be multiplied by. Only scores whose bit of `candidates`
/// (unless null) is set count. One NaN among them makes the sum NaN.
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
      const auto e = Exp2Of(hn::Sub(hn::Load(d, scores + i), shift));
      hn::Store(e, d, weights + i);
      sum = hn::Add(sum, e);
    }
    if (before == -std::numeric_limits<float>::infinity()) {
      correction = 0.0f;  // At the first block.
    } else if (before != largest) {
      correction = hn::GetLane(Exp2Of(hn::Set(d, before - largest)));
    }
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

/// The two products of attention with a block of at most kKeyBlock keys: in float, or with their
/// factors rounded to bfloat16 by a unit that multiplies those faster. In scratch of its own.
class BlockProducts {
 public:
  /// Pieces of a task's scratch.
  struct Layout {
    Layout(ScratchLayout& all, size_t dim) {
      key = all.Take(kKeyBlock * dim);
      value = all.Take(kKeyBlock * PaddedCols(dim));
      factor = all.Take(kMostRows * std::max(dim, kKeyBlock) / 2);
    }
    size_t key;     // In tiles: [dim][TileCols()] each, or as PackKeysBF16 has them.
    size_t value;   // In tiles: [keys][TileCols()] each, or as PackValuesBF16 has them.
    size_t factor;  // Rows of queries or of weights in bfloat16.
  };
  // Of a call.
  static constexpr size_t kMostRows = 32;
  static_assert(kTileRows <= kMostRows);

  /// `bf16`: null for float; then `dim` is a multiple of kBF16Step.
  BlockProducts(const DotUnit* bf16, const Layout& layout, size_t dim, float* memory)
      : bf16_(TileCols() == kBF16Step ? bf16 : nullptr),
        dim_(dim),
        key_(memory + layout.key),
        value_(memory + layout.value),
        factor_(reinterpret_cast<uint16_t*>(memory + layout.factor)) {}

  /// Rows of a call that wastes nothing; calls have at most so many.
  size_t row_step() const {
    return bf16_ != nullptr ? std::min(bf16_->row_step, kMostRows) : kTileRows;
  }

  void TakeKeys(ConstMatrix key) {
    if (bf16_ == nullptr) return PackKeys(key, key_);
    PackKeysBF16(key, reinterpret_cast<uint16_t*>(key_));
  }

  /// As PackValues.
  void TakeValues(ConstMatrix value, const uint64_t* wanted) {
    keys_ = static_cast<size_t>(value.rows);
    if (bf16_ == nullptr) return PackValues(value, wanted, value_);
    PackValuesBF16(value, wanted, reinterpret_cast<uint16_t*>(value_));
  }

  /// scores[r][j] = query[r] . key[j], for `rows` queries and the first `count` keys (and what pads
  /// them to a tile); rows of scores are kKeyBlock apart.
  void Score(const float* query, size_t stride, size_t rows, size_t count, float* scores) {
    if (bf16_ == nullptr) {
      for (size_t j = 0; j < count; j += TileCols()) {
        TileOfRows(rows, query, stride, key_ + j * dim_, dim_, false, scores + j, kKeyBlock);
      }
      return;
    }
    PackRowsBF16(query, stride, rows, dim_, factor_);
    Multiply(rows, dim_, dim_, key_, Pad(count) / kBF16Step, scores, kKeyBlock, false);
  }

  /// sums[r] += the sum of weights[r][j] value[j] over the first `count` keys; weights are zero
  /// from there to the end of a tile. Rows of sums have PaddedCols(dim) columns, `sum_stride`
  /// apart.
  void AddValues(const float* weights, size_t stride, size_t rows, size_t count, float* sums,
                 size_t sum_stride) {
    if (bf16_ == nullptr) {
      for (size_t j = 0; j < PaddedCols(dim_); j += TileCols()) {
        TileOfRows(rows, weights, stride, value_ + j * keys_, count, true, sums + j, sum_stride);
      }
      return;
    }
    const size_t depth = Pad(count);
    PackRowsBF16(weights, stride, rows, depth, factor_);
    Multiply(rows, depth, Pad(keys_), value_, dim_ / kBF16Step, sums, sum_stride, true);
  }

 private:
  static size_t Pad(size_t count) { return (count + kBF16Step - 1) / kBF16Step * kBF16Step; }

  /// `depth` of the `packed_depth` elements of K that B was packed with.
  void Multiply(size_t rows, size_t depth, size_t packed_depth, const float* b, size_t tiles,
                float* c, size_t c_stride, bool accumulate) {
    const GroupRange range = {.begin = 0, .end = depth / 2};
    bf16_->multiply({.a = reinterpret_cast<const std::byte*>(factor_),
                     .a_stride = depth * sizeof(uint16_t),
                     .rows = rows,
                     .b = reinterpret_cast<const std::byte*>(b),
                     .groups = packed_depth / 2,
                     .tiles = tiles,
                     .c = reinterpret_cast<std::byte*>(c),
                     .c_stride = c_stride * sizeof(float),
                     .accumulate = accumulate},
                    {&range, 1});
  }

  const DotUnit* const bf16_;
  const size_t dim_;
  size_t keys_ = 0;  // Of V's block.
  float* const key_;
  float* const value_;
  uint16_t* const factor_;
};

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
