// SnapKV (arXiv 2404.14469): what the end of the prompt looks at is what stays of the prompt.
//
//   s[l, g, j] = sum over the heads of group g and the last `window` queries of the prompt of
//                P[h, i, j] in layer l
//   v[l, g, j] = sum (pooling=avg) or largest (max) of s over the `pool` neighbours of j, itself in
//                the middle; what lies outside of the tokens that are voted on counts as nothing
//
// The votes are on the tokens before the window. At the end of a prompt of n tokens each layer and
// KV head keeps the window, and of the others those with the largest v, in all ceil(keep * n)
// tokens, or `capacity`; the first `first` are among them. The others are evicted for good, and
// everything generated later stays.
//
// As the authors' released code has it: the softmax is over the whole prompt, a mean over a fixed
// number of neighbours ranks as their sum, and neighbours that are cut off at an end are zeros in
// it. Two things are stated readings. Where heads share keys their votes are summed, so that one
// choice holds for the group (the code repeats the keys and chooses by query head). And a share of
// the prompt (`keep`) stands beside the paper's fixed number (`capacity`), so that prompts of any
// length can be compared at the same work. Sums are whole numbers (kProbabilityUnit): the choice
// does not depend on how the prompt was cut.
#ifndef THRESHER_BACKEND_SPARSITY_SNAPKV_H_
#define THRESHER_BACKEND_SPARSITY_SNAPKV_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeSnapKv(const PolicyValues& values,
                                                         const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_SNAPKV_H_
