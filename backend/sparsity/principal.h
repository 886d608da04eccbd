// A stated reading of the similar-vectors-traceable processor of VLSI 2023 (77.35 TOPS/W), of which
// no more than the title is public: "principal-component-prior speculation" and "similar vectors".
//
//   components  scores are predicted from the leading principal components of Q and K of each head;
//               "prior": they are those of the weights, known before any input
//               (backend/model/score_predictor.h). Each query attends to its best keys by them
//   similar     a query whose cosine with the last one that chose for itself is at least this takes
//   over
//               that one's choice. The choice is what is reused, not the result; a general
//               processor saves nothing by it
//
// It is not the chip's mechanism, and no result of the chip may be compared with it.
#ifndef THRESHER_BACKEND_SPARSITY_PRINCIPAL_H_
#define THRESHER_BACKEND_SPARSITY_PRINCIPAL_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// INVALID_ARGUMENT for more components than a head has dimensions.
absl::StatusOr<std::shared_ptr<const Policy>> MakePrincipal(const PolicyValues& values,
                                                            const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_PRINCIPAL_H_
