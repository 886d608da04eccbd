// The safetensors format: 8 bytes with the header's length (little-endian), the header (JSON: for
// each tensor its dtype, shape and byte range), the tensors' bytes.
//
// The parser believes nothing: every range is checked against the file, the size that dtype and
// shape give, and all the other ranges, which together must cover the data with neither overlap nor
// hole, as the format asks.
#ifndef THRESHER_BACKEND_MODEL_SAFETENSORS_H_
#define THRESHER_BACKEND_MODEL_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/tensor/dtype.h"

namespace thresher {

/// A tensor as it lies in a file: row-major, little-endian, any alignment. Owns nothing.
struct StoredTensor {
  DType type = DType::kF32;
  std::vector<int64_t> shape;  // Empty: a scalar.
  const void* data = nullptr;
  size_t bytes = 0;
};

using StoredTensors = std::map<std::string, StoredTensor, std::less<>>;

/// The largest header the format allows.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

/// The tensors of a whole file; they point into `file`. INVALID_ARGUMENT names `file_name` and the
/// tensor, and says what is wrong.
absl::StatusOr<StoredTensors> ParseSafetensors(std::span<const std::byte> file,
                                               std::string_view file_name);

/// "[2, 768]".
std::string ShapeText(std::span<const int64_t> shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_SAFETENSORS_H_
