// Compaction: copies of chosen rows, at memory speed.
#ifndef THRESHER_BACKEND_MODEL_ROWS_H_
#define THRESHER_BACKEND_MODEL_ROWS_H_

#include <algorithm>
#include <cstdint>
#include <span>

#include "backend/tensor/matrix.h"

namespace thresher {

/// y[i] = x[rows[i]]. In place (y the beginning of x) if `rows` ascends.
inline void GatherRows(ConstMatrix x, std::span<const int32_t> rows, Matrix y) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const float* from = x.row(rows[i]);
    float* to = y.row(static_cast<int64_t>(i));
    if (from != to) std::copy_n(from, x.cols, to);
  }
}

/// y[rows[i]] = x[i].
inline void ScatterRows(ConstMatrix x, std::span<const int32_t> rows, Matrix y) {
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(x.row(static_cast<int64_t>(i)), x.cols, y.row(rows[i]));
  }
}

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_ROWS_H_
