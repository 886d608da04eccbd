// ELSA (ISCA 2021): each row of Q and K is hashed to the signs of orthogonal projections. The
// Hamming distance H of two hashes of k bits estimates the angle, pi H / k - bias, and |K_j|
// cos(angle) how similar a key is (the norm of Q is the same for the whole row). A key is a
// candidate if that reaches t |K_max|, with a threshold t for each layer and the longest key of the
// head; the best one always is.
//
// The projections are the rows of a random orthogonal matrix of Kronecker structure
// (backend/device/vector_codes.h). Thresholds are given, or learned by `thresher calibrate`
// (backend/evaluation/elsa_thresholds.h).
//
// Verified: the hash, the estimate, a threshold for each layer. The default of the bias (0.127 for
// 64 bits), the structure of the projections and how thresholds are learned are from descriptions
// that could not be verified: a stated reading. The best key always stays, which is ours.
#ifndef THRESHER_BACKEND_SPARSITY_ELSA_H_
#define THRESHER_BACKEND_SPARSITY_ELSA_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// INVALID_ARGUMENT for thresholds that are not one for each layer, and a hash wider than a head.
absl::StatusOr<std::shared_ptr<const Policy>> MakeElsa(const PolicyValues& values,
                                                       const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_ELSA_H_
