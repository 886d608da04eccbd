#include "backend/device/cpu/highway_product.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/device/cpu/highway_product.cc"
#include "hwy/foreach_target.h"  // Compiles this file once for each target.
// After foreach_target.h:
#include "backend/device/cpu/gemm-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace {

// A tile's slice of B, so deep, stays in the first-level cache while the rows pass by it.
template <typename TB>
constexpr size_t kBlock = sizeof(TB) == 1 ? 512 : 256;
// Up to so many rows the reading of B is what takes the time: it is read once, from its beginning
// to its end, as memory is fastest.
constexpr size_t kFewRows = 2 * kTileRows;

/// The first of as few tiles as hold `rows`, all about as high: eight rows of six are done as four
/// and four, since a tile of two has too few chains of additions to be busy.
size_t NextTileRows(size_t rows) {
  const size_t tiles = (rows + kTileRows - 1) / kTileRows;
  return (rows + tiles - 1) / tiles;
}

/// Whole groups of kTiles neighbouring tiles for kRows rows; returns the columns done.
template <size_t kRows, size_t kTiles, typename TB>
HWY_NOINLINE size_t MultiplyRows(const float* a, size_t a_stride,
                                 std::span<const ColumnRange> columns, const TB* b, size_t k,
                                 size_t cols, float* c, size_t c_stride) {
  const size_t tile_cols = TileCols();
  size_t n = 0;
  for (; n + kTiles * tile_cols <= cols; n += kTiles * tile_cols) {
    bool begun = false;
    for (const ColumnRange& range : columns) {
      const auto begin = static_cast<size_t>(range.begin), end = static_cast<size_t>(range.end);
      FloatTiles<kRows, kTiles>(a + begin, a_stride, b + n * k + begin * tile_cols, k * tile_cols,
                                end - begin, begun, c + n, c_stride);
      begun = true;
    }
  }
  return n;
}

/// A slice of B as what the tiles multiply, for rows that would each make it so once more.
void WidenTile(const uint16_t* tile, size_t count, float* out) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  for (size_t i = 0; i < count; i += 2 * lanes) {
    hn::Vec<FloatTag> b0, b1;
    LoadB(tile + i, b0, b1);
    hn::Store(b0, d, out + i);
    hn::Store(b1, d, out + i + lanes);
  }
}
void WidenTile(const int8_t* tile, size_t count, int16_t* out) {
  const hn::Repartition<int16_t, IntTag> d;
  for (size_t i = 0; i < count; i += hn::Lanes(d)) hn::Store(LoadPairs(tile + i), d, out + i);
}

template <typename TA, typename TB, typename TC>
void MultiplyPanel(const TA* a, size_t a_stride, size_t rows, std::span<const ColumnRange> columns,
                   const TB* b, size_t k, size_t cols, TC* c, size_t c_stride) {
  const size_t tile_cols = TileCols();
  size_t first = 0;
  if constexpr (sizeof(TA) == sizeof(float)) {
    if (rows == 1) first = MultiplyRows<1, 4>(a, a_stride, columns, b, k, cols, c, c_stride);
    if (rows == 2) first = MultiplyRows<2, 2>(a, a_stride, columns, b, k, cols, c, c_stride);
    if (rows == 3) first = MultiplyRows<3, 2>(a, a_stride, columns, b, k, cols, c, c_stride);
  }
  // Tiles that the rows pass by in turn, block by block of K: of few rows one, of many all.
  const size_t group = rows <= kFewRows ? tile_cols : cols;
  for (; first < cols; first += group) {
    bool begun = false;
    for (const ColumnRange& range : columns) {
      const auto end = static_cast<size_t>(range.end);
      for (auto k0 = static_cast<size_t>(range.begin); k0 < end; k0 += kBlock<TB>) {
        const size_t depth = std::min(kBlock<TB>, end - k0);
        for (size_t n = first; n < std::min(cols, first + group); n += tile_cols) {
          const TB* tile = b + n * k + k0 * tile_cols;
          const auto pass_rows = [&](const auto* slice) HWY_ATTR {
            for (size_t m = 0; m < rows;) {
              const size_t height = NextTileRows(rows - m);
              TileOfRows(height, a + m * a_stride + k0, a_stride, slice, depth, begun,
                         c + m * c_stride + n, c_stride);
              m += height;
            }
          };
          if constexpr (sizeof(TB) < sizeof(TA)) {
            if (rows > kFewRows) {
              HWY_ALIGN TA widened[kBlock<TB> * 2 * HWY_MAX_BYTES / sizeof(float)];
              WidenTile(tile, depth * tile_cols, widened);
              pass_rows(widened);
              continue;
            }
          }
          pass_rows(tile);
        }
        begun = true;
      }
    }
  }
}

void MultiplyF32(const float* a, size_t a_stride, size_t rows, std::span<const ColumnRange> columns,
                 const float* b, size_t k, size_t cols, float* c, size_t c_stride) {
  MultiplyPanel(a, a_stride, rows, columns, b, k, cols, c, c_stride);
}
void MultiplyBF16(const float* a, size_t a_stride, size_t rows,
                  std::span<const ColumnRange> columns, const uint16_t* b, size_t k, size_t cols,
                  float* c, size_t c_stride) {
  MultiplyPanel(a, a_stride, rows, columns, b, k, cols, c, c_stride);
}
void MultiplyInt8(const int16_t* a, size_t a_stride, size_t rows,
                  std::span<const ColumnRange> columns, const int8_t* b, size_t k, size_t cols,
                  int32_t* c, size_t c_stride) {
  MultiplyPanel(a, a_stride, rows, columns, b, k, cols, c, c_stride);
}

size_t GetTileCols() { return TileCols(); }
size_t GetTileRows() { return kTileRows; }

}  // namespace
}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thresher {
namespace {

HWY_EXPORT(MultiplyF32);
HWY_EXPORT(MultiplyBF16);
HWY_EXPORT(MultiplyInt8);
HWY_EXPORT(GetTileCols);
HWY_EXPORT(GetTileRows);

int64_t RoundUp(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Columns in tiles of TileCols(), the last padded with zeros; each tile [k][TileCols()], or for
// int8 [k / 2][TileCols()][2] with an odd k padded.
class HighwayProduct final : public Product {
 public:
  HighwayProduct(WeightRows& weight, std::vector<float>& scales)
      : precision_(weight.precision()),
        k_(precision_ == Precision::kInt8 ? RoundUp(weight.cols(), 2) : weight.cols()),
        tile_cols_(static_cast<int64_t>(HWY_DYNAMIC_DISPATCH(GetTileCols)())),
        row_step_(static_cast<int64_t>(HWY_DYNAMIC_DISPATCH(GetTileRows)())),
        cols_(RoundUp(weight.rows(), tile_cols_)),
        panel_cols_(RoundUp(ChoosePanelCols(weight.rows()), tile_cols_)) {
    const size_t element = weight.element_size();
    const int64_t group = precision_ == Precision::kInt8 ? 2 : 1;
    packed_.Resize(static_cast<size_t>(cols_ * k_) * element);
    std::memset(packed_.data(), 0, packed_.size());
    std::vector<std::byte> row(static_cast<size_t>(k_) * element);  // Padded with zeros.
    scales.resize(static_cast<size_t>(weight.rows()));
    for (int64_t n = 0; n < weight.rows(); ++n) {
      scales[n] = weight.Convert(n, row.data());
      std::byte* out =
          packed_.data() + (n / tile_cols_ * tile_cols_ * k_ + n % tile_cols_ * group) * element;
      for (int64_t i = 0; i < k_; i += group) {
        std::memcpy(out + i * tile_cols_ * element, row.data() + i * element, group * element);
      }
    }
  }

  SourceForm source_form() const override {
    switch (precision_) {
      case Precision::kBF16:
        return SourceForm::kF32AsBF16;
      case Precision::kInt8:
        return SourceForm::kS8AsS16;
      default:
        break;
    }
    return SourceForm::kF32;
  }
  int64_t source_cols() const override { return k_; }
  int64_t panel_cols() const override { return panel_cols_; }
  int64_t row_step() const override { return row_step_; }
  bool skips_columns() const override { return true; }
  size_t bytes() const override { return packed_.size(); }

  absl::Status Multiply(const void* source, int64_t source_stride, int64_t rows,
                        std::span<const ColumnRange> columns, int64_t panel,
                        void* accumulators) const override {
    const int64_t first = panel * panel_cols_;
    const int64_t cols = std::min(panel_cols_, cols_ - first);
    switch (precision_) {
      case Precision::kF32:
        HWY_DYNAMIC_DISPATCH(MultiplyF32)
        (static_cast<const float*>(source), source_stride, rows, columns, Panel<float>(first), k_,
         cols, static_cast<float*>(accumulators), kMaxPanelCols);
        break;
      case Precision::kBF16:
        HWY_DYNAMIC_DISPATCH(MultiplyBF16)
        (static_cast<const float*>(source), source_stride, rows, columns, Panel<uint16_t>(first),
         k_, cols, static_cast<float*>(accumulators), kMaxPanelCols);
        break;
      default:
        HWY_DYNAMIC_DISPATCH(MultiplyInt8)
        (static_cast<const int16_t*>(source), source_stride, rows, columns, Panel<int8_t>(first),
         k_, cols, static_cast<int32_t*>(accumulators), kMaxPanelCols);
        break;
    }
    return absl::OkStatus();
  }

 private:
  template <typename T>
  const T* Panel(int64_t first_col) const {
    return reinterpret_cast<const T*>(packed_.data()) + first_col * k_;
  }

  Precision precision_;
  int64_t k_;
  int64_t tile_cols_;
  int64_t row_step_;
  int64_t cols_;
  int64_t panel_cols_;
  AlignedBuffer<std::byte> packed_;
};

}  // namespace

std::unique_ptr<Product> PackHighwayProduct(WeightRows& weight, std::vector<float>& scales) {
  return std::make_unique<HighwayProduct>(weight, scales);
}

}  // namespace thresher
#endif  // HWY_ONCE
