// The accumulators of a product (backend/device/cpu/product.h), as its device would ask for them.
#ifndef THRESHER_TESTS_DEVICE_PRODUCT_TESTING_H_
#define THRESHER_TESTS_DEVICE_PRODUCT_TESTING_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/device/cpu/product.h"

namespace thresher::testing {

/// All accumulators of `rows` rows, chunk by chunk, panel by panel. `columns`: those that are not
/// zero; empty: all.
template <typename T>
std::vector<T> MultiplyAll(const Product& product, std::span<const std::byte> source,
                           int64_t stride, int64_t first_row, int64_t rows, int64_t cols,
                           std::span<const ColumnRange> columns = {}) {
  std::vector<T> result(static_cast<size_t>(rows * cols));
  AlignedBuffer<T> accumulators(static_cast<size_t>(kMaxChunkRows * kMaxPanelCols));
  const size_t row_bytes = static_cast<size_t>(stride) * SourceElementSize(product.source_form());
  const ColumnRange all[] = {{0, product.source_cols()}};
  if (columns.empty()) columns = all;
  for (int64_t row = 0; row < rows; row += kMaxChunkRows) {
    const int64_t count = std::min(kMaxChunkRows, rows - row);
    for (int64_t panel = 0; panel * product.panel_cols() < cols; ++panel) {
      const absl::Status status =
          product.Multiply(source.data() + static_cast<size_t>(first_row + row) * row_bytes, stride,
                           count, columns, panel, accumulators.data());
      EXPECT_TRUE(status.ok()) << status;
      const int64_t first = panel * product.panel_cols();
      const int64_t width = std::min(product.panel_cols(), cols - first);
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(accumulators.data() + r * product.accumulator_stride(panel), width,
                    result.data() + (row + r) * cols + first);
      }
    }
  }
  return result;
}

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_DEVICE_PRODUCT_TESTING_H_
