// MNNFast (ISCA 2019): zero-skipping.
//
// A value whose probability is below a threshold is not read: it adds nothing, and nothing is
// renormalised. The softmax itself stays exact.
//
// The paper's other half, column-based streaming with a lazy softmax, is how the cpu device's
// kernels work under every policy: blocks of keys go by once, sums of e^s v and e^s are kept, and
// the division comes last. The paper subtracts no maximum, so that a large score overflows; the
// kernels keep a running one.
//
// Verified: by hand, and cpu against reference. Not: their speed-ups, which are of memory networks.
#ifndef THRESHER_BACKEND_SPARSITY_MNNFAST_H_
#define THRESHER_BACKEND_SPARSITY_MNNFAST_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeMnnFast(const PolicyValues& values,
                                                          const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_MNNFAST_H_
