// SpAtten (HPCA 2021, arXiv 2012.09852): cascade token and head pruning, local value pruning,
// progressive quantization. Formulas: section III of the paper; schedules: schedule.h.
//
//   s[j] += sum over heads and queries of P[h, i, j], carried over the layers, for every token j
//   a[h] += sum over queries and dimensions of |E[h, i, d]|, likewise, for every head h
//
// After layer l the tokens (heads) with the largest s (a) stay for layer l + 1, as many as the
// schedule gives that layer; what has gone never comes back. Heads that share K and V stand or fall
// together: a[] of a key-value group is the sum over its heads. Values and precision are rules of
// the plan.
#ifndef THRESHER_BACKEND_SPARSITY_SPATTEN_H_
#define THRESHER_BACKEND_SPARSITY_SPATTEN_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// Of an encoder the above, of a decoder spatten_cache.h. Errors: those of ReadSpattenSettings.
absl::StatusOr<std::shared_ptr<const Policy>> MakeSpatten(const PolicyValues& values,
                                                          const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_SPATTEN_H_
