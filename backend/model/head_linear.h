// A linear layer packed head by head, for plans that do not need every (row, head) of its output:
// what nobody reads is not computed.
#ifndef THRESHER_BACKEND_MODEL_HEAD_LINEAR_H_
#define THRESHER_BACKEND_MODEL_HEAD_LINEAR_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// A linear layer's weights as they stand in the checkpoint. Owns nothing.
struct StoredLinear {
  StoredMatrix weight;  // [out, in]
  StoredMatrix bias;    // [1, out], or empty.
};

/// Immutable after Pack.
class HeadLinear {
 public:
  /// Head h is output features [h * out / heads, (h + 1) * out / heads).
  static absl::StatusOr<HeadLinear> Pack(Device& device, const StoredLinear& stored, int32_t heads,
                                         Precision precision);

  /// Memory that Run reuses.
  struct Workspace {
    std::vector<int32_t> rows;
    MatrixBuffer input, output;
  };

  /// For each set flag of `wanted` [heads][x.rows], the head's columns of that row of y [x.rows,
  /// out]; what is not wanted is left as it is.
  absl::Status Run(Device& device, ConstMatrix x, std::span<const uint8_t> wanted,
                   Workspace& workspace, Matrix y) const;

  size_t bytes() const;

 private:
  std::vector<std::unique_ptr<PackedLinear>> heads_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_HEAD_LINEAR_H_
