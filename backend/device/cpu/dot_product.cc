#include "backend/device/cpu/dot_product.h"

#include "hwy/base.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace thresher {
namespace {

// The kernels see bytes. A group is what one lane takes in at once: four bytes of a row, be they
// four int8 or two bfloat16.
constexpr size_t kGroupBytes = 4;
constexpr size_t kVectorBytes = 64;
// A tile of B: two vectors wide, group after group.
constexpr size_t kTileCols = 32;
constexpr size_t kTileStep = 2 * kVectorBytes;
// 12 x 2 sums, two vectors of B and one element of A, of 32 registers.
constexpr size_t kTileRows = 12;
// A slice of a tile, so many groups deep, stays in the first-level cache while the rows pass by it.
constexpr size_t kBlockGroups = 128;
// Packed B of few rows is read from its beginning to its end, faster than the processor's own
// prefetching follows.
constexpr size_t kAheadBytes = 2048;

/// One product, of one chunk and panel.
struct DotTask {
  const std::byte* a = nullptr;
  size_t a_stride = 0;  // In bytes.
  size_t rows = 0;
  const std::byte* b = nullptr;  // Tiles, each [groups][2 vectors].
  size_t groups = 0;
  size_t tiles = 0;
  const int32_t* begin = nullptr;  // What the sums of each row begin at (of int8).
  std::byte* c = nullptr;          // Rows of kMaxPanelCols sums of four bytes.
};
constexpr size_t kSumStride = static_cast<size_t>(kMaxPanelCols) * 4;

/// A range of K, in groups.
struct GroupRange {
  size_t begin = 0;
  size_t end = 0;
};

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
#define THRESHER_DOT(sum, b, a) _mm512_dpbusd_epi32(sum, b, a)
#define THRESHER_DOT_SUMS_ROWS
#include "backend/device/cpu/dot_tiles-inl.h"
#define THRESHER_DOT_NAMESPACE bf16
#define THRESHER_DOT_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
#define THRESHER_DOT(sum, b, a) \
  _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum), (__m512bh)(b), (__m512bh)(a)))
#include "backend/device/cpu/dot_tiles-inl.h"

namespace thresher {
namespace {

// Columns in tiles of kTileCols, the last padded with zeros; in each tile of each group of K the
// columns' elements side by side.
class DotProduct final : public Product {
 public:
  DotProduct(WeightRows& weight, std::vector<float>& scales)
      : int8_(weight.precision() == Precision::kInt8),
        groups_(RoundUp(weight.cols() * Element(), kGroupBytes) / kGroupBytes),
        cols_(RoundUp(weight.rows(), kTileCols)),
        panel_cols_(RoundUp(ChoosePanelCols(weight.rows()), kTileCols)) {
    packed_.Resize(static_cast<size_t>(cols_ * groups_) * kGroupBytes);
    const std::byte zero = int8_ ? std::byte{128} : std::byte{0};
    std::fill_n(packed_.data(), packed_.size(), zero);
    std::vector<std::byte> row(static_cast<size_t>(groups_) * kGroupBytes);  // Padded with zeros.
    scales.resize(static_cast<size_t>(weight.rows()));
    for (int64_t n = 0; n < weight.rows(); ++n) {
      scales[n] = weight.Convert(n, row.data());
      if (int8_) {
        for (std::byte& value : row) value ^= std::byte{128};  // Adds 128.
      }
      std::byte* out = packed_.data() + TileOffset(n) + n % kTileCols * kGroupBytes;
      for (int64_t g = 0; g < groups_; ++g) {
        std::memcpy(out + g * kTileStep, row.data() + g * kGroupBytes, kGroupBytes);
      }
    }
  }

  SourceForm source_form() const override { return int8_ ? SourceForm::kS8 : SourceForm::kBF16; }
  int64_t source_cols() const override { return groups_ * GroupElements(); }
  int64_t panel_cols() const override { return panel_cols_; }
  int64_t row_step() const override { return kTileRows; }
  size_t bytes() const override { return packed_.size(); }
  bool skips_columns() const override { return true; }

  absl::Status Multiply(const void* source, int64_t source_stride, int64_t rows,
                        std::span<const ColumnRange> columns, int64_t panel,
                        void* accumulators) const override {
    thread_local std::vector<GroupRange> ranges;
    ranges.clear();
    for (const ColumnRange& range : columns) {
      const auto begin = static_cast<size_t>(range.begin / GroupElements());
      ranges.push_back(
          {.begin = ranges.empty() ? begin : std::max(begin, ranges.back().end),
           .end = static_cast<size_t>(RoundUp(range.end, GroupElements()) / GroupElements())});
      if (ranges.back().begin >= ranges.back().end) ranges.pop_back();
    }
    const int64_t first = panel * panel_cols_;
    std::array<int32_t, kMaxChunkRows> begin;
    const DotTask task = {
        .a = static_cast<const std::byte*>(source),
        .a_stride = static_cast<size_t>(source_stride * Element()),
        .rows = static_cast<size_t>(rows),
        .b = packed_.data() + TileOffset(first),
        .groups = static_cast<size_t>(groups_),
        .tiles = static_cast<size_t>(std::min(panel_cols_, cols_ - first)) / kTileCols,
        .begin = int8_ ? begin.data() : nullptr,
        .c = static_cast<std::byte*>(accumulators)};
    if (int8_) {
      vnni::SumRows(task, ranges, begin.data());
      for (int64_t r = 0; r < rows; ++r) begin[r] *= -128;
      vnni::Multiply(task, ranges);
    } else {
      bf16::Multiply(task, ranges);
    }
    return absl::OkStatus();
  }

 private:
  static int64_t RoundUp(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
  int64_t Element() const { return int8_ ? 1 : 2; }
  int64_t GroupElements() const { return static_cast<int64_t>(kGroupBytes) / Element(); }
  size_t TileOffset(int64_t column) const {
    return static_cast<size_t>(column / static_cast<int64_t>(kTileCols) * groups_) * kTileStep;
  }

  const bool int8_;  // Else bfloat16.
  const int64_t groups_;
  const int64_t cols_;
  const int64_t panel_cols_;
  AlignedBuffer<std::byte> packed_;
};

}  // namespace

std::unique_ptr<Product> PackDotProduct(const Isa& isa, WeightRows& weight,
                                        std::vector<float>& scales) {
  const bool has = weight.precision() == Precision::kInt8   ? isa.vnni
                   : weight.precision() == Precision::kBF16 ? isa.bf16
                                                            : false;
  if (!has) return nullptr;
  return std::make_unique<DotProduct>(weight, scales);
}

}  // namespace thresher

#else

namespace thresher {

std::unique_ptr<Product> PackDotProduct(const Isa&, WeightRows&, std::vector<float>&) {
  return nullptr;
}

}  // namespace thresher

#endif
