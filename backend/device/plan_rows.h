// Which rows of Q, K and V a plan needs at all: what nobody reads is never generated.
#ifndef THRESHER_BACKEND_DEVICE_PLAN_ROWS_H_
#define THRESHER_BACKEND_DEVICE_PLAN_ROWS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "backend/device/plan.h"

namespace thresher {

/// Sizes of one sequence in one layer. Query i stands at key keys - queries + i.
struct AttentionExtent {
  int32_t heads = 0;
  int32_t kv_heads = 0;  // Divides heads; heads that share K and V are neighbours.
  int32_t queries = 0;
  int32_t keys = 0;
  bool causal = false;  // A query sees the keys up to its own position.

  /// Keys that the query sees: [0, visible(query)).
  int32_t visible(int32_t query) const { return causal ? keys - queries + query + 1 : keys; }
};

/// Flags, one a row: 1 where it must be generated.
struct GeneratedRows {
  std::vector<uint8_t> query;  // [heads][queries]
  std::vector<uint8_t> key;    // [kv_heads][keys]: some query of some head scores it.
  std::vector<uint8_t> value;  // [kv_heads][keys]: some query may read it, or has it as one_hot.
};

/// INVALID_ARGUMENT, naming the field, unless the plan fits: list sizes, head and row numbers,
/// shares in (0, 1], bit widths, a candidate for each query that runs.
absl::Status CheckPlan(const SequencePlan& plan, const AttentionExtent& extent);

/// The union over queries (and, for K and V, over the heads that share them) of what a plan that
/// passed CheckPlan reads. What is decided later (candidates from scores, local value pruning) does
/// not shrink it.
GeneratedRows RowsToGenerate(const SequencePlan& plan, const AttentionExtent& extent);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_PLAN_ROWS_H_
