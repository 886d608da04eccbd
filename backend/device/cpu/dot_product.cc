#include "backend/device/cpu/dot_product.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace thresher {
namespace {

static_assert(kMaxPanelCols <= kMaxDotTiles * kDotTileCols);

int64_t RoundUp(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Columns in tiles, the last padded with zeros.
class DotProduct final : public Product {
 public:
  DotProduct(const DotUnit& unit, WeightRows& weight, std::vector<float>& scales)
      : unit_(unit),
        int8_(weight.precision() == Precision::kInt8),
        groups_(RoundUp(weight.cols(), GroupElements() * GroupStep()) / GroupElements()),
        cols_(RoundUp(weight.rows(), kDotTileCols)),
        panel_cols_(RoundUp(ChoosePanelCols(weight.rows()), kDotTileCols)) {
    packed_.Resize(static_cast<size_t>(cols_ * groups_) * kDotGroupBytes);
    std::fill_n(packed_.data(), packed_.size(), std::byte{0});
    if (unit.unsigned_a) col_begin_.resize(static_cast<size_t>(cols_));
    // Padded with zeros.
    std::vector<std::byte> row(static_cast<size_t>(groups_) * kDotGroupBytes);
    scales.resize(static_cast<size_t>(weight.rows()));
    for (int64_t n = 0; n < weight.rows(); ++n) {
      scales[n] = weight.Convert(n, row.data());
      if (unit.unsigned_a) {
        int64_t sum = 0;  // It may wrap, as sums of products do.
        for (const std::byte value : row) sum += static_cast<int8_t>(value);
        col_begin_[n] = static_cast<int32_t>(-128 * sum);
      }
      std::byte* out = packed_.data() + TileOffset(n) + n % kDotTileCols * kDotGroupBytes;
      for (int64_t g = 0; g < groups_; ++g) {
        std::memcpy(out + g * kDotTileStep, row.data() + g * kDotGroupBytes, kDotGroupBytes);
      }
    }
  }

  SourceForm source_form() const override {
    if (!int8_) return SourceForm::kBF16;
    return unit_.unsigned_a ? SourceForm::kU8 : SourceForm::kS8;
  }
  int64_t source_cols() const override { return groups_ * GroupElements(); }
  int64_t panel_cols() const override { return panel_cols_; }
  int64_t row_step() const override { return static_cast<int64_t>(unit_.row_step); }
  size_t bytes() const override { return packed_.size() + col_begin_.size() * sizeof(int32_t); }
  bool skips_columns() const override { return true; }

  absl::Status Multiply(const void* source, int64_t source_stride, int64_t rows,
                        std::span<const ColumnRange> columns, int64_t panel,
                        void* accumulators) const override {
    thread_local std::vector<GroupRange> ranges;
    ranges.clear();
    const int64_t step = GroupElements() * GroupStep();
    for (const ColumnRange& range : columns) {
      const auto begin = static_cast<size_t>(range.begin / step * GroupStep());
      ranges.push_back({.begin = ranges.empty() ? begin : std::max(begin, ranges.back().end),
                        .end = static_cast<size_t>(RoundUp(range.end, step) / GroupElements())});
      if (ranges.back().begin >= ranges.back().end) ranges.pop_back();
    }
    const int64_t first = panel * panel_cols_;
    const bool all =
        ranges.size() == 1 && ranges[0].begin == 0 && ranges[0].end == static_cast<size_t>(groups_);
    unit_.multiply(
        {.a = static_cast<const std::byte*>(source),
         .a_stride = static_cast<size_t>(source_stride) * kDotGroupBytes / GroupElements(),
         .rows = static_cast<size_t>(rows),
         .b = packed_.data() + TileOffset(first),
         .groups = static_cast<size_t>(groups_),
         .tiles = static_cast<size_t>(std::min(panel_cols_, cols_ - first)) / kDotTileCols,
         .c = static_cast<std::byte*>(accumulators),
         .c_stride = static_cast<size_t>(kMaxPanelCols) * sizeof(float),
         .col_begin = all && unit_.unsigned_a ? col_begin_.data() + first : nullptr},
        ranges);
    return absl::OkStatus();
  }

 private:
  int64_t GroupElements() const { return int8_ ? 4 : 2; }
  int64_t GroupStep() const { return static_cast<int64_t>(unit_.group_step); }
  size_t TileOffset(int64_t column) const {
    return static_cast<size_t>(column / static_cast<int64_t>(kDotTileCols) * groups_) *
           kDotTileStep;
  }

  const DotUnit& unit_;
  const bool int8_;  // Else bfloat16.
  const int64_t groups_;
  const int64_t cols_;
  const int64_t panel_cols_;
  AlignedBuffer<std::byte> packed_;
  std::vector<int32_t> col_begin_;  // DotTask::col_begin of all columns.
};

}  // namespace

std::unique_ptr<Product> PackDotProduct(const DotUnit& unit, WeightRows& weight,
                                        std::vector<float>& scales) {
  return std::make_unique<DotProduct>(unit, weight, scales);
}

}  // namespace thresher
