// Heavy hitters (H2O, arXiv 2306.14048): each layer and KV head holds the tokens that attention has
// fallen on most, and the most recent ones; the others are evicted for good.
//
//   s[l, g, j] += sum over the heads of group g and the queries of P[h, i, j] in layer l, for every
//   token j held: the prompt's queries, and then each decode step's
//
// Of the n tokens seen so far, prompt and generated, the newest among them, a cache holds
//
//   ceil(recent * n)   the most recent, and
//   ceil(heavy * n)    the heaviest of the rest, at least the `first` tokens, which never leave
//
// so that it grows with the text: where its room grows the new token takes a new slot, at most one
// a step; otherwise that of the lightest of those that may leave, chosen before the new token
// attends (of equals the latest goes, the tie rule of top_k.h).
#ifndef THRESHER_BACKEND_SPARSITY_H2O_H_
#define THRESHER_BACKEND_SPARSITY_H2O_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeH2o(const PolicyValues& values,
                                                      const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_H2O_H_
