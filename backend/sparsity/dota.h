// DOTA (ASPLOS 2022) without its training: scores are predicted from the layer's input through a
// ternary random projection to a low rank, in low precision, and each query attends to its k best
// keys, the same number in every row.
//
// The paper's detector is Q~ = X P W~_Q, K~ = X P W~_K with W~ trained beside the model to make Q~
// K~^T like Q K^T. There are no trained detectors for public models; here W~ is what P alone gives,
// the plain projection: W~_Q = P^T W_Q R for each head, with R a second ternary projection to the
// same rank where a head is wider (backend/model/score_predictor.h). It must be expected to find
// far fewer of the right keys than the paper's.
//
// K and V rows that no query chose are never generated.
#ifndef THRESHER_BACKEND_SPARSITY_DOTA_H_
#define THRESHER_BACKEND_SPARSITY_DOTA_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// INVALID_ARGUMENT for a rank above the model's hidden size.
absl::StatusOr<std::shared_ptr<const Policy>> MakeDota(const PolicyValues& values,
                                                       const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_DOTA_H_
