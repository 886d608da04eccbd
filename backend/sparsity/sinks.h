// Attention sinks and a recent window (StreamingLLM, arXiv 2309.17453): the cache holds the first
// tokens and the most recent ones, and forgets what is between. Every head and layer holds the same
// tokens. Keys are rotated as they are read, to where they stand in the cache, so that a text may
// go on beyond the positions that the model knows.
//
// The recent tokens are a ring: the new one takes the oldest one's slot.
#ifndef THRESHER_BACKEND_SPARSITY_SINKS_H_
#define THRESHER_BACKEND_SPARSITY_SINKS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeSinks(const PolicyValues& values,
                                                        const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_SINKS_H_
