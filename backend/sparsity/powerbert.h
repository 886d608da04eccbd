// PoWER-BERT (ICML 2020, arXiv 2001.08950): word-vector elimination by significance.
//
//   Sig_l[j] = sum over heads and queries i != j of P_l[h, i, j]
//
// Between layer l's attention and its feed-forward network the l_l tokens with the largest
// significance stay, by this layer's attention alone (SpAtten carries its sums over the layers);
// what has gone never comes back, and [CLS] always stays. That a token's attention to itself does
// not count is from the authors' released code. The retention configuration l_1 >= l_2 >= ... is
// the policy's: the paper learns it in training, with a soft mask whose size is punished, and this
// policy takes what was learned (`counts`, absolute as in the paper), shares, or a straight line.
//
// Verified: by hand, and cpu against reference. Not: accuracy as published, which takes their
// fine-tuned weights.
#ifndef THRESHER_BACKEND_SPARSITY_POWERBERT_H_
#define THRESHER_BACKEND_SPARSITY_POWERBERT_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// INVALID_ARGUMENT for a list of another length than the model has layers, one that rises, or
/// counts that are no whole numbers.
absl::StatusOr<std::shared_ptr<const Policy>> MakePowerBert(const PolicyValues& values,
                                                            const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_POWERBERT_H_
