// Predictions of a layer's attention scores (backend/device/prediction.h) with their weights and
// matrices, and with their products on a device: codes are small whole numbers, exact in bfloat16,
// so that predicted projections are ordinary products there.
//
// From the layer's input X, with W of Q and of K and codes c():
//
//   kEager            Q^ = c(X) c(W_Q)^T + b_Q,  K^ = c(X) c(W_K)^T, leading ones; see
//                     eager_prediction.h
//   kOneOperandLog    Q is the real one, K^ = i(X) c(W_K)^T; scores are c(Q) i(K^)^T: leading ones
//                     c() of one factor of each product, integers i() of the other
//   kInputProjection  Q^ = i(X P) i(R^T W_Q P)^T + R^T b_Q, K^ likewise without a bias; then
//                     integers. P [hidden, rank] and R [head_dim, width] are ternary random
//                     projections; R only if width < head_dim
//
// b_K is left out: it adds the same to all scores of a row. kPrincipal's components are those of
// the weights, known before any input: for each head the eigenvectors of W_Q W_Q^T + b_Q b_Q^T and
// W_K W_K^T, each over its trace, summed.
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
#include "backend/device/prediction.h"
#include "backend/device/vector_codes.h"
#include "backend/model/head_linear.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// Of one layer. Immutable after Pack.
class ScorePredictor {
 public:
  /// Q and K of some rows, encoded, and the memory that making them takes. Reused from layer to
  /// layer.
  class Workspace {
   private:
    friend class ScorePredictor;
    MatrixBuffer input_codes_, input_scales_, projected_;
    MatrixBuffer query_codes_, query_scales_, key_codes_, key_scales_;
    std::vector<float> center_;
  };

  /// `real_query`, which outlives the predictor: the layer's own weights of Q.
  static absl::StatusOr<ScorePredictor> Pack(Device& device, const StoredLinear& query,
                                             const StoredLinear& key,
                                             const PackedLinear& real_query,
                                             const AttentionShape& shape,
                                             const PredictionRequest& request);

  /// Of the kinds from the layer's input: predicts Q and K of its rows `x` [rows, in].
  absl::Status Project(Device& device, ConstMatrix x, Workspace& workspace) const;
  /// Of the kinds from Q and K: encodes those of one sequence.
  absl::Status Encode(Device& device, ConstMatrix query, ConstMatrix key,
                      Workspace& workspace) const;

  /// The predicted scores, times `scale`, of `heads` of the one sequence whose rows are [first,
  /// first + rows) of what was projected or encoded; of kSignHash the products of the codes.
  /// `body`: see Device::PredictScores.
  absl::Status Predict(Device& device, const Workspace& workspace, int64_t first, int64_t rows,
                       std::span<const int32_t> heads, float scale, ScoreBlockBody body) const;

  size_t bytes() const;

 private:
  /// A weight's codes, packed, with each output feature's scale.
  struct Codes {
    std::unique_ptr<PackedLinear> packed;
    std::vector<float> scales;
    std::vector<float> bias;  // Empty: none.
  };
  /// The weight [out, in] and, if `bias`, the bias that are encoded.
  struct Floats {
    MatrixBuffer weight;
    std::vector<float> bias;
  };
  Floats Read(const StoredLinear& stored, bool bias) const;
  absl::StatusOr<Codes> PackCodes(Device& device, Floats floats) const;
  std::vector<float> Components(const StoredLinear& query, const StoredLinear& key) const;
  /// The predicted projection of the encoded input, encoded anew.
  absl::Status ProjectOne(Device& device, const Codes& weight, Workspace& workspace,
                          MatrixBuffer& codes, MatrixBuffer& scales) const;

  AttentionShape shape_;
  PredictionRequest request_;
  int32_t width_ = 0;              // Of a head's code.
  Codes query_, key_;              // Of the kinds from the input; kOneOperandLog has key_ alone.
  VectorCodes input_;              // What encodes the input, unless leading ones do;
  VectorCodes vectors_;            // and what encodes Q and K.
  std::vector<float> projection_;  // R; empty: none.
  const PackedLinear* real_query_ = nullptr;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_SCORE_PREDICTOR_H_
