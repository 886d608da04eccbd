// FACT's eager prediction of a layer's attention scores (backend/device/eager_prediction.h), with
// its matrix products on a device: leading-one codes are powers of two, exact in bfloat16, so that
// the projections are ordinary products there.
#ifndef THRESHER_BACKEND_MODEL_SCORE_PREDICTOR_H_
#define THRESHER_BACKEND_MODEL_SCORE_PREDICTOR_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/device/eager_prediction.h"
#include "backend/model/head_linear.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// Immutable after Pack.
class ScorePredictor {
 public:
  /// Q^ and K^ of some rows, encoded, and the memory that making them takes. Reused from layer to
  /// layer.
  class Workspace {
   private:
    friend class ScorePredictor;
    MatrixBuffer input_codes_, input_scales_, projected_;
    MatrixBuffer query_codes_, query_scales_, key_codes_, key_scales_;
  };

  static absl::StatusOr<ScorePredictor> Pack(Device& device, const StoredLinear& query,
                                             const StoredLinear& key, const AttentionShape& shape,
                                             int32_t bits);

  /// Predicts Q and K of the layer's input rows `x` [rows, in].
  absl::Status Project(Device& device, ConstMatrix x, Workspace& workspace) const;

  /// The predicted scores, times `scale`, of `heads` of the one sequence whose rows are [first,
  /// first + rows) of what was projected. `body`: see Device::PredictScores.
  absl::Status Predict(Device& device, const Workspace& workspace, int64_t first, int64_t rows,
                       std::span<const int32_t> heads, float scale, ScoreBlockBody body) const;

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
  /// The predicted projection of the encoded input, encoded anew.
  absl::Status ProjectOne(Device& device, const Codes& weight, Workspace& workspace,
                          MatrixBuffer& codes, MatrixBuffer& scales) const;

  AttentionShape shape_;
  int32_t bits_ = 8;
  Codes query_, key_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_SCORE_PREDICTOR_H_
