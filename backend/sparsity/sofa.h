// SOFA (MICRO 2024, arXiv 2407.10416): scores are predicted from the layer's input with one operand
// of each product as its leading one (K^ = X W_K with W_K so encoded beforehand, then Q K^^T with Q
// so encoded); each query attends to the best keys of segments of the row; K and V that nobody
// chose are never generated.
//
//   segments  distributed sorting: of each of n segments the k / n best, rather than the k best of
//   all radius    and only those within so much of the largest that the segment has shown so far
//
// Verified against the text: the encoding and which operand has it in either phase, the segments,
// the radius (whose value it does not tell). The products of leading ones are corrected by 1 / ln
// 2, which is no part of the paper and changes no order. The update in descending order of the
// predicted scores spares its hardware the refreshing of the running maximum; the softmax is the
// same and so is the answer, so that there is nothing of it here. Q is generated in full, as there.
#ifndef THRESHER_BACKEND_SPARSITY_SOFA_H_
#define THRESHER_BACKEND_SPARSITY_SOFA_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// Never fails: every value is in range.
absl::StatusOr<std::shared_ptr<const Policy>> MakeSofa(const PolicyValues& values,
                                                       const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_SOFA_H_
