// Which prediction of the attention's scores a policy asks for. They are all of one form: rows of Q
// and K, real or guessed, become short codes with a scale for each row and head; codes are
// multiplied; the product times both scales is the prediction. Codes are whole numbers (or signs)
// so small that their products are exact in float whatever the order: all devices predict the same
// bits. Only what the code is differs from paper to paper:
//
//   from the layer's input, before Q, K and V exist (backend/model/score_predictor.h)
//     kEager            FACT (ISCA 2023): leading ones of input, weights, Q^ and K^
//                       (eager_prediction.h)
//     kOneOperandLog    SOFA (MICRO 2024): leading ones of one factor of each product: of W_K, and
//                       of Q, which is the real one
//     kInputProjection  DOTA (ASPLOS 2022) without training, Ayaka (JSSC 2024): the input through a
//                       ternary random projection to `rank`, then P^T W; codes are integers
//   from Q and K, before the attention runs (vector_codes.h)
//     kInteger          Sanger (MICRO 2021): integers
//     kSignHash         ELSA (ISCA 2021): signs of an orthogonal projection
//     kProjection       A-SSCC 2023: a ternary random projection of each head; integers
//     kPrincipal        VLSI 2023: the leading principal components of each head; integers
#ifndef THRESHER_BACKEND_DEVICE_PREDICTION_H_
#define THRESHER_BACKEND_DEVICE_PREDICTION_H_

#include <compare>
#include <cstdint>

namespace thresher {

enum class PredictionKind : uint8_t {
  kNone,
  kEager,
  kOneOperandLog,
  kInputProjection,
  kInteger,
  kSignHash,
  kProjection,
  kPrincipal,
};

/// Each different request keeps weights or matrices of its own in a loaded model, for good, and
/// requests come from outside: policies must offer few values of each.
struct PredictionRequest {
  PredictionKind kind = PredictionKind::kNone;
  int32_t bits = 8;     // Width of the operands, 2 to 8. kSignHash: not read.
  int32_t width = 0;    // Elements of a head's code; 0: head_dim. At most head_dim.
  int32_t rank = 0;     // kInputProjection: of the projected input; 0: not projected.
  bool center = false;  // Of the kinds from Q and K: keys less their mean in the sequence.

  bool wanted() const { return kind != PredictionKind::kNone; }
  bool from_input() const {
    return kind == PredictionKind::kEager || kind == PredictionKind::kOneOperandLog ||
           kind == PredictionKind::kInputProjection;
  }
  friend auto operator<=>(const PredictionRequest&, const PredictionRequest&) = default;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_PREDICTION_H_
