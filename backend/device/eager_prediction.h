// FACT's eager prediction (ISCA 2023): what the attention scores will roughly be, from the layer's
// input and the weights of Q and K, with additions only.
//
// A number is quantised (symmetric, linear, `bits` wide) and of the integer only the sign and the
// leading one are kept: +-2^e, e <= bits - 2. A product of two such codes is an addition of
// exponents. The prediction is three such matrix products:
//
//   Q^ = X W_Q^T + b_Q,  K^ = X W_K^T,  A^ = Q^ K^T   (Q^ and K^ are encoded anew, by row and head)
//
// b_K is left out: it adds the same to all scores of a row. b_Q is not: it weighs keys differently.
//
// Codes are signed powers of two up to 64: exact in int8, bf16 and float, and sums of up to 4,096
// of their products are exact in float whatever the order. So the add-only product (AddOnlyDot, the
// oracle), a loop in float and an AMX product in bf16 or int8 all give the same sums.
//
// Dropping the mantissa makes each factor smaller than it was. If mantissas are spread as those of
// natural numbers are (evenly in the logarithm), by ln 2 in the mean; three products of two factors
// each enter a score. That does not change a row's order, but a threshold or a gap needs the scale,
// so each product is multiplied by kMantissaCorrection.
#ifndef THRESHER_BACKEND_DEVICE_EAGER_PREDICTION_H_
#define THRESHER_BACKEND_DEVICE_EAGER_PREDICTION_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// 1 / ln(2)^2: for the two factors of one product.
inline constexpr float kMantissaCorrection = 2.0813689810056077f;
/// 1 / ln(2): where only one factor lost its mantissa.
inline constexpr float kOneMantissaCorrection = 1.4426950408889634f;

/// A matrix of leading-one codes: element (i, j) stands for codes(i, j) * scale(i, j / group).
struct LeadingOneMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group = 0;          // Columns that share a scale; divides cols.
  std::vector<int8_t> codes;  // [rows][cols]: 0 or a signed power of two.
  std::vector<float> scales;  // [rows][cols / group]

  const int8_t* row(int64_t i) const { return codes.data() + i * cols; }
  float scale(int64_t i, int64_t g) const { return scales[i * (cols / group) + g]; }
};

/// Quantises each group of `group` columns of each row (scale: its largest magnitude over
/// 2^(bits-1) - 1, ties to even) and keeps sign and leading one. 2 <= bits <= 8; a group that is
/// zero or holds a number that is not finite becomes zero codes.
LeadingOneMatrix EncodeLeadingOne(ConstMatrix x, int32_t bits, int64_t group);

/// y[i][o] = correction * x_scale * w_scale * sum over k of x(i, k) w(o, k), plus bias[o] unless
/// `bias` is empty: y [x.rows, w.rows]. Each operand has one scale a row; cols are equal.
void PredictProjection(const LeadingOneMatrix& x, const LeadingOneMatrix& w,
                       std::span<const float> bias, Matrix y);

/// The predicted scores of one head: y[i][j] = correction * `scale` * q(i) . k(j), with column
/// group `q_group` of q and `k_group` of k; both encoded with group = head_dim. y [q.rows, k.rows].
void PredictScores(const LeadingOneMatrix& q, int64_t q_group, const LeadingOneMatrix& k,
                   int64_t k_group, float scale, Matrix y);

// ---- The same as devices do it: codes are floats, so that products run in the dense kernels. ----

/// What is encoded: element (i, o) is x(i, o) or, given scales, the finished projection
/// x(i, o) * (kMantissaCorrection * row_scales[i] * col_scales[o]) + bias[o] (no bias: empty).
struct LeadingOneInput {
  ConstMatrix x;
  std::span<const float> row_scales, col_scales, bias;
};

/// EncodeLeadingOne of rows [first, first + count) of the input: codes [x.rows, x.cols], scales
/// [x.rows, x.cols / group]. Other rows are left as they are. Bit for bit the codes and scales of
/// EncodeLeadingOne and PredictProjection.
void EncodeLeadingOneRows(const LeadingOneInput& input, int32_t bits, int64_t group, int64_t first,
                          int64_t count, Matrix codes, Matrix scales);

/// Encoded Q and K of one sequence, whatever their code (prediction.h): the score of a query and a
/// key is factor * query_scale * key_scale * (query code . key code), multiplied in that order.
struct ScoreOperands {
  ConstMatrix query_codes;   // [rows, heads * width]
  ConstMatrix query_scales;  // [rows, heads]
  ConstMatrix key_codes;     // [rows, kv_heads * width]
  ConstMatrix key_scales;    // [rows, kv_heads]
  int32_t width = 0;         // Of a head's code.
  float factor = 1.0f;
};
/// Receives the predicted scores of queries [first_query, first_query + scores.rows) of a head,
/// over all keys. They live during the call only. It must not throw.
using ScoreBlockBody =
    absl::FunctionRef<void(int32_t head, int64_t first_query, ConstMatrix scores)>;

/// The sum of products of two codes by adding exponents in integers, as the accelerator does.
int64_t AddOnlyDot(std::span<const int8_t> a, std::span<const int8_t> b);
/// The same as a product of floats.
float FloatDot(std::span<const int8_t> a, std::span<const int8_t> b);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_EAGER_PREDICTION_H_
