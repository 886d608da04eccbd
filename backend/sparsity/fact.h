// FACT (ISCA 2023, doi 10.1145/3579371.3589057): from scores that are predicted before Q, K and V
// exist (eager_prediction.h), each query and head
//
//   1. chooses its keys: the ceil(topk * keys) with the largest predicted scores (exact top-k), and
//      of these the ones whose predicted probability reaches `threshold`; the best one always;
//   2. may skip Q: if its best score leads the second by `gap`, its softmax is nearly one-hot and
//      the output is the best key's V (a row that sees a single key always is).
//
// K and V rows that nobody chose are never generated (plan_rows.h). A token that is chosen by many
// queries and heads is important: the ceil(ffn * tokens) most chosen run the feed-forward network
// of the same layer in full precision, ties by the exact top-k, the others in low precision.
//
// Two points on which the sources differ or are silent:
// - Direction of Q skipping. One reading keeps the query when the gap is large ("small-gap" skips
// the
//   others). Only the other direction can work: a lead of g puts at least 1 / (1 + (n-1) e^-g) on
//   one of n keys, so its V is nearly the output; a small lead says that several keys share the
//   row.
// - Denominator of the threshold. Here it is the row's predicted softmax, over the keys that it
//   sees, as in Sanger (MICRO 2021), whose published thresholds are probabilities.
#ifndef THRESHER_BACKEND_SPARSITY_FACT_H_
#define THRESHER_BACKEND_SPARSITY_FACT_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// INVALID_ARGUMENT for ffn < 1 where nothing chooses keys: all tokens would rank alike.
absl::StatusOr<std::shared_ptr<const Policy>> MakeFact(const PolicyValues& values,
                                                       const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_FACT_H_
