// Speculation by random projection (A-SSCC 2023, and Ayaka, JSSC 2024): rows are projected by a
// ternary sparse random matrix, +-sqrt(3/k) with probability 1/6 each, which keeps the order of
// their products roughly; each query attends to the keys with the largest products.
//
//   from=vectors  A-SSCC: Q and K of each head are projected: (Q R)(K R)^T
//   from=input    Ayaka, across layers: the layer's input is, and the weights with it, so that rows
//   of
//                 K and V that no query chose are never generated: Q^ = (X R)(R^T W_Q)
//   center=mean   redundant partial products: the softmax does not change when all scores of a row
//   do
//                 by the same amount, so what is common to all keys is taken off them before they
//                 are projected
//
// Verified against the abstracts: the distribution, the order that is kept, the top-k. How the
// chips eliminate redundant products is not public: center=mean is a stated reading, from softmax's
// invariance alone. Widths and precision of the codes are ours.
#ifndef THRESHER_BACKEND_SPARSITY_PROJECTION_H_
#define THRESHER_BACKEND_SPARSITY_PROJECTION_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// INVALID_ARGUMENT for a projection that is wider than what it projects.
absl::StatusOr<std::shared_ptr<const Policy>> MakeProjection(const PolicyValues& values,
                                                             const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_PROJECTION_H_
