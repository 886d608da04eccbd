// A3 (HPCA 2020): candidates by a greedy search in sorted keys, and a second choice by exact
// scores.
//
// The columns of K (of one head) are sorted once. For a query, each dimension d keeps two pointers
// into its column: to the largest product q_d K[j, d] that has not been taken, and to the smallest.
// In each of M iterations the largest product of all dimensions, and the smallest, are taken and
// added to the estimates of their rows: 2 M multiplications instead of keys x dimensions. Rows with
// a positive estimate are candidates; should none have one, the largest is. Candidates are scored
// exactly, and those whose weight e^(score - largest score) is below T do not take part in the
// softmax.
//
// Settings, from descriptions of the paper (its text could not be verified): conservative M = keys
// / 2 and T = 5 %, approximate (aggressive) M = keys / 8 and T = 10 %.
//
// The report's scores are those that took part. Besides them a device of this kind would make the
// search's products and the scores that post-scoring dropped.
//
// Verified: by hand, and against an exhaustive search. Not: accuracy and speed as published, which
// are of memory networks and BERT on their own hardware.
#ifndef THRESHER_BACKEND_SPARSITY_A3_H_
#define THRESHER_BACKEND_SPARSITY_A3_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeA3(const PolicyValues& values,
                                                     const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_A3_H_
