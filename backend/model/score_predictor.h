// FACT's eager prediction of a layer's attention scores (backend/device/eager_prediction.h), with
// its matrix products on a device: leading-one codes are powers of two, exact in bfloat16, so that
// the projections are ordinary products there.
#ifndef THRESHER_BACKEND_MODEL_SCORE_PREDICTOR_H_
#define THRESHER_BACKEND_MODEL_SCORE_PREDICTOR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/model/head_linear.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// Immutable after Pack.
class ScorePredictor {
 public:
  static absl::StatusOr<ScorePredictor> Pack(Device& device, const StoredLinear& query,
                                             const StoredLinear& key, const AttentionShape& shape,
                                             int32_t bits);

  /// scores[h] [x.rows, x.rows]: the predicted scores of head h of one sequence whose layer input
  /// is x [rows, in], times `scale`.
  absl::Status Predict(Device& device, ConstMatrix x, float scale,
                       std::vector<MatrixBuffer>& scores) const;

  size_t bytes() const { return query_.packed->bytes() + key_.packed->bytes(); }

 private:
  /// A weight's codes, packed, with each output feature's scale.
  struct Codes {
    std::unique_ptr<PackedLinear> packed;
    std::vector<float> scales;
    std::vector<float> bias;  // Empty: none.
  };
  static absl::StatusOr<Codes> PackCodes(Device& device, const StoredLinear& stored, bool bias,
                                         int32_t bits);
  /// y = the predicted projection of encoded rows.
  static absl::Status Project(Device& device, ConstMatrix codes, std::span<const float> row_scales,
                              const Codes& weight, Matrix y);

  AttentionShape shape_;
  int32_t bits_ = 8;
  Codes query_, key_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_SCORE_PREDICTOR_H_
