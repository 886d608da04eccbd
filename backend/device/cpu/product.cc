#include "backend/device/cpu/product.h"

#include <algorithm>
#include <cmath>

namespace thresher {

size_t SourceElementSize(SourceForm form) {
  switch (form) {
    case SourceForm::kF32:
    case SourceForm::kF32AsBF16:
      return 4;
    case SourceForm::kBF16:
    case SourceForm::kS8AsS16:
      return 2;
    case SourceForm::kS8:
    case SourceForm::kU8:
      return 1;
  }
  return 0;
}

size_t WeightRows::element_size() const {
  switch (precision_) {
    case Precision::kF32:
      return sizeof(float);
    case Precision::kBF16:
      return sizeof(uint16_t);
    case Precision::kInt8:
    case Precision::kInt4:
      return sizeof(int8_t);
  }
  return 0;
}

float WeightRows::Convert(int64_t row, void* out) {
  if (precision_ == Precision::kF32) {
    weight_.RowToFloat(row, static_cast<float*>(out));
    return 1.0f;
  }
  weight_.RowToFloat(row, row_.data());
  if (precision_ == Precision::kBF16) {
    std::transform(row_.begin(), row_.end(), static_cast<uint16_t*>(out), ToBF16);
    return 1.0f;
  }
  float largest = 0.0f;
  for (const float w : row_) largest = std::max(largest, std::abs(w));
  const auto limit = static_cast<float>(QuantizedLimit(precision_));
  const float inverse = largest > 0.0f ? limit / largest : 0.0f;
  std::transform(row_.begin(), row_.end(), static_cast<int8_t*>(out), [=](float w) {
    // The clamp turns what a NaN or an overflow leaves into some number.
    return static_cast<int8_t>(std::fmax(-limit, std::fmin(limit, std::nearbyint(w * inverse))));
  });
  return largest / limit;
}

int64_t ChoosePanelCols(int64_t cols) {
  const int64_t panels = std::max<int64_t>(1, (cols + 96) / 192);
  const int64_t width = (cols + panels - 1) / panels;
  return std::min((width + 15) / 16 * 16, kMaxPanelCols);
}

}  // namespace thresher
