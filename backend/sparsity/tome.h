// ToMe, token merging (ICLR 2023, arXiv 2210.09461): alike tokens become one.
//
// Between each layer's attention and its feed-forward network, bipartite soft matching:
//
//   m[i]    the mean over heads of K row i, at unit length
//   sources the even rows, targets the odd ones, but for protected tokens ([CLS]), which are
//   neither each source finds the target with the largest m . m (the first of equals); the `r`
//   sources with the largest of these are merged into theirs, more than one into the same where it
//   so happens
//
// A merged token is the mean of all that went into it: x = sum of size x / sum of size. It counts
// by its size in later attention, log(size) being added to its key's scores (proportional
// attention). Its tokens' last hidden states are its own.
//
// A reading: the released code puts the unmerged sources before the targets after every merge, so
// that the next layer's halves are others; here rows keep their order and alternate anew. A layer
// merges at most half of its tokens.
//
// Verified: by hand, and cpu against reference. Not: accuracy as published, which is of vision
// transformers.
#ifndef THRESHER_BACKEND_SPARSITY_TOME_H_
#define THRESHER_BACKEND_SPARSITY_TOME_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeTome(const PolicyValues& values,
                                                       const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_TOME_H_
