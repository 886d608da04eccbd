// Sanger (MICRO 2021): Q and K as symmetric integers of 4 bits are multiplied, and each query
// attends to the keys whose softmax of these scores is above a threshold.
//
// Verified against the released code: the width, the scale (largest magnitude / (2^(bits-1) - 1)),
// the softmax before the threshold, the published thresholds. Three points are ours:
// - The scale is by row and head. The released code has one for a whole batch, with which an answer
//   would depend on what else is in the batch; its option to normalise rows first gives the codes
//   of ours.
// - The best key always stays. In the released code a row without any key attends to all.
// - The models here were not trained with the mask, as the paper's were.
#ifndef THRESHER_BACKEND_SPARSITY_SANGER_H_
#define THRESHER_BACKEND_SPARSITY_SANGER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// Never fails: every value is in range.
absl::StatusOr<std::shared_ptr<const Policy>> MakeSanger(const PolicyValues& values,
                                                         const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_SANGER_H_
