// A weight matrix packed for one kind of kernel, and the raw product with it: what a Linear is made
// of. Two implementations: oneDNN's kernels (onednn_product.h) and our own (highway_product.h).
//
// The output columns are cut into panels, whose width is fixed when the weight is packed, and the
// rows into chunks, as the device likes: each (chunk, panel) is an independent task. K is never
// split over tasks. An accumulator's bits depend on its row of the source and on the weight alone.
#ifndef THRESHER_BACKEND_DEVICE_CPU_PRODUCT_H_
#define THRESHER_BACKEND_DEVICE_CPU_PRODUCT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// What a product reads its rows as. The device converts activations to it, once for each Linear.
enum class SourceForm {
  kF32,        // float as it is.
  kF32AsBF16,  // float, rounded to the nearest bfloat16.
  kBF16,       // uint16_t
  kS8,         // int8_t, quantised by row.
  kU8,         // uint8_t, the same values + 128.
  kS8AsS16,    // int16_t, the same values.
};
size_t SourceElementSize(SourceForm form);

/// No panel is wider, and no chunk of rows is taller.
inline constexpr int64_t kMaxPanelCols = 256;
inline constexpr int64_t kMaxChunkRows = 256;

class Product {
 public:
  virtual ~Product() = default;

  virtual SourceForm source_form() const = 0;
  /// Elements of a source row; in_features rounded up (the rest must be zero) or as it is.
  virtual int64_t source_cols() const = 0;
  /// Columns [p * panel_cols(), ...) are panel p's; the last may be narrower.
  virtual int64_t panel_cols() const = 0;
  /// The count of rows that wastes nothing is a multiple of this.
  virtual int64_t row_step() const = 0;
  virtual size_t bytes() const = 0;
  /// Elements from one row of a panel's accumulators to the next, at most kMaxPanelCols.
  virtual int64_t accumulator_stride(int64_t /*panel*/) const { return kMaxPanelCols; }

  /// Source columns that are known to be zero need not be multiplied: whether Multiply profits.
  virtual bool skips_columns() const { return false; }

  /// The accumulators of one chunk and panel: `rows` <= kMaxChunkRows rows of `source`, whose rows
  /// are `source_stride` elements apart. Row r goes to accumulators + r *
  /// accumulator_stride(panel), float, or int32_t for the quantised forms; all kMaxPanelCols *
  /// kMaxChunkRows elements may be written. The source is zero outside `columns` (ascending, within
  /// source_cols()). May be called from several threads at once.
  virtual absl::Status Multiply(const void* source, int64_t source_stride, int64_t rows,
                                std::span<const ColumnRange> columns, int64_t panel,
                                void* accumulators) const = 0;
};

/// A weight converted to the elements of a precision, row by row as it is packed: float, bfloat16
/// (uint16_t), or int8_t with a scale for each row (symmetric: value = scale * element). kInt4 is
/// kInt8 with smaller numbers, and the same to every kernel.
class WeightRows {
 public:
  WeightRows(const StoredMatrix& weight, Precision precision)
      : weight_(weight), precision_(precision), row_(static_cast<size_t>(weight.cols)) {}

  int64_t rows() const { return weight_.rows; }
  int64_t cols() const { return weight_.cols; }
  /// Of the elements: never kInt4.
  Precision precision() const {
    return precision_ == Precision::kInt4 ? Precision::kInt8 : precision_;
  }
  size_t element_size() const;
  /// Writes cols() elements to `out`; returns the row's scale, 1 unless quantised.
  float Convert(int64_t row, void* out);

 private:
  StoredMatrix weight_;
  Precision precision_;
  std::vector<float> row_;
};

/// Splits `cols` into equal panels of about 192 columns, in multiples of 16: wide enough to keep a
/// kernel busy, and enough of them to share out a product that has few rows.
int64_t ChoosePanelCols(int64_t cols);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_PRODUCT_H_
