// LTP, learned token pruning (KDD 2022, arXiv 2107.00910): tokens below a threshold go.
//
//   s_l[j] = 1 / (heads x queries) x sum over heads and queries i of P_l[h, i, j]
//
// Between layer l's attention and its feed-forward network the tokens with s_l above the layer's
// threshold stay, and [CLS] always; what has gone never comes back. So a text loses as many tokens
// as it can spare, and a long one, whose attention is spread thinner, more of them than a short
// one. Heads and queries are those that are present.
//
// The paper learns a threshold for each layer with a soft mask; this policy takes what was learned
// (`thresholds`), or the line from which the learning starts: in layer l = 1 ... L `final` x l / L.
// On a model that was not fine-tuned for it, `thresher calibrate --policy ltp` finds `final`.
//
// Verified: by hand, and cpu against reference. Not: accuracy as published, which takes their
// fine-tuned weights.
#ifndef THRESHER_BACKEND_SPARSITY_LTP_H_
#define THRESHER_BACKEND_SPARSITY_LTP_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// INVALID_ARGUMENT for a list of thresholds of another length than the model has layers.
absl::StatusOr<std::shared_ptr<const Policy>> MakeLtp(const PolicyValues& values,
                                                      const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_LTP_H_
