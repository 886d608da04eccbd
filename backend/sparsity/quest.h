// Quest (arXiv 2406.10774): a decode step's row reads the stretches of the cache that its query may
// weigh most; the cache itself stays whole.
//
// The slots lie in stretches of `page` (the paper's page), and of each stretch and KV head the
// cache keeps the least and the greatest of each element of its keys. A query q can have no larger
// score in a stretch than
//
//   b[stretch] = sum over d of max(q_d * least_d, q_d * greatest_d)
//
// Of n slots held, the new token's among them, a row reads max(3, ceil(keep * n / page)) stretches,
// or max(3, floor(budget / page)): the newest slot's, and those with the largest b. The first
// `whole` layers read everything. Nothing is summed over time: each query chooses anew.
//
// As the paper and the authors' released evaluation code have it, with three stated readings. The
// newest slot's stretch is always read and counts, as in their kernels. Where heads share keys the
// group reads one choice, by the larger bound of its heads. A share (`keep`) stands beside the
// paper's fixed number of tokens (`budget`).
#ifndef THRESHER_BACKEND_SPARSITY_QUEST_H_
#define THRESHER_BACKEND_SPARSITY_QUEST_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeQuest(const PolicyValues& values,
                                                        const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_QUEST_H_
