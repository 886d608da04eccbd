// Codes of rows of Q and K, head by head, that scores are predicted from (prediction.h). This is
// both what they mean and what every device runs, a block of rows each: the bits are the same.
//
//   integers     the head's part of the row as symmetric integers of `bits`: scale = its largest
//                magnitude / (2^(bits-1) - 1), ties to even
//   signs        the signs of `width` orthogonal projections, +-1 (0 counts as positive); scale 1.
//                The product of two codes is width - 2 x their Hamming distance
//   projection   x M, then integers as above; M [head_dim, width] one for all heads, or one for
//   each
//
// A part that is zero or holds a number that is not finite gets zero codes and scale 0.
#ifndef THRESHER_BACKEND_DEVICE_VECTOR_CODES_H_
#define THRESHER_BACKEND_DEVICE_VECTOR_CODES_H_

#include <cstdint>
#include <span>
#include <vector>

#include "backend/tensor/matrix.h"

namespace thresher {

/// Entries +-sqrt(3 / width) with probability 1/6 each, else 0 (Achlioptas): E[R R^T] is the
/// identity, so that products of projections estimate products of vectors. [rows, width],
/// row-major; the same for the same arguments everywhere.
std::vector<float> TernaryProjection(int64_t rows, int64_t width, uint32_t seed);

/// A square matrix, row-major.
struct SquareMatrix {
  int32_t dim = 0;
  std::vector<float> values;
};
/// Random orthogonal matrices whose Kronecker product is a random orthogonal one of `dim`, which
/// multiplies in fewer steps (ELSA: 64 = 4 x 4 x 4, 768 products for 4,096). A `dim` without
/// factors has one matrix. The same for the same arguments everywhere.
std::vector<SquareMatrix> OrthogonalFactors(int32_t dim, uint32_t seed);

/// Eigenvectors of the symmetric matrix [dim, dim], those of the largest eigenvalues first: the
/// columns of the result [dim, dim], row-major.
std::vector<float> PrincipalComponents(std::span<const double> matrix, int32_t dim);

/// Immutable.
class VectorCodes {
 public:
  VectorCodes() = default;
  /// 2 <= bits <= 8. Products of two such codes of up to 1,024 elements are exact.
  static VectorCodes Integers(int32_t head_dim, int32_t bits);
  /// 1 <= width <= head_dim.
  static VectorCodes Signs(int32_t head_dim, int32_t width);
  /// `matrices`: [head_dim, width], or [heads][head_dim, width], each multiplied from the right.
  static VectorCodes Projection(int32_t head_dim, int32_t width, int32_t bits,
                                std::vector<float> matrices);

  int32_t head_dim() const { return head_dim_; }
  int32_t width() const { return width_; }
  /// Heads that the matrices are for; 0: any number.
  int64_t heads() const;

  /// Encodes rows [first, first + count) of x [rows, heads * head_dim], less `center` [heads *
  /// head_dim] unless that is empty, into codes [rows, heads * width] and scales [rows, heads].
  void Encode(ConstMatrix x, std::span<const float> center, int64_t first, int64_t count,
              Matrix codes, Matrix scales) const;

 private:
  int32_t head_dim_ = 0;
  int32_t width_ = 0;
  int32_t bits_ = 0;                   // 0: signs.
  std::vector<SquareMatrix> factors_;  // Of signs.
  std::vector<float> matrices_;        // Of projections; empty: none.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_VECTOR_CODES_H_
