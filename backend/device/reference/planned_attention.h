// Attention under a plan, for one sequence, in plain loops: what every rule of SequencePlan means.
// The oracle for the devices that do it fast.
//
// For each head that runs and each query i, over the keys that it sees (all, or up to its own
// position when causal):
//
//   1. one_hot >= 0: the output is that V row. Counts as a probability of 1 in the column sums and
//      as one value read; it is no softmax row and has no score.
//   2. Scores are made for the candidates alone; the softmax runs over them.
//   3. Progressive quantization. A row of Q or K (of one head) becomes integers of msb + lsb = b
//      bits: round(x / s), ties to even, s = largest magnitude / (2^(b-1) - 1). The first scores
//      use Q in full and of K its most significant plane: two's complement, the low lsb bits read
//      as zero, which rounds toward minus infinity. Where the largest probability of the row is
//      below `threshold`, its scores are made again from all b bits. V stays as it is.
//      Token sizes are added as logarithms to every score, the first ones and those made again.
//   4. Calibrated heads move probability from sinks to other keys (AttentionCalibration). Sinks are
//      found in the probabilities of step 3, one-hot queries as 1; those are not moved themselves.
//   5. Column and self sums, entropy and sink share are of these probabilities.
//   6. Local value pruning reads the V rows of the ceil(value_keep * keys seen) largest
//      probabilities (KeepCount, exact top-k), and of these those of value_threshold or more; the
//      others add nothing and nothing is renormalised.
//
// The dense plan gives the bits of the device's plain attention. Rows of K and V that a plan does
// not need (plan_rows.h) are never read.
#ifndef THRESHER_BACKEND_DEVICE_REFERENCE_PLANNED_ATTENTION_H_
#define THRESHER_BACKEND_DEVICE_REFERENCE_PLANNED_ATTENTION_H_

#include "absl/status/status.h"
#include "backend/device/device.h"
#include "backend/device/plan.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// One sequence: query [queries, heads * head_dim]; key and value [keys, kv_heads * head_dim]. With
/// fewer queries than keys, the queries are the last ones.
struct PlannedAttentionInput {
  AttentionShape shape;
  ConstMatrix query;
  ConstMatrix key;
  ConstMatrix value;
  float scale = 1.0f;
  bool causal = false;
};

/// Writes out [queries, heads * head_dim] and `record`. INVALID_ARGUMENT if shapes or plan do not
/// fit.
absl::Status PlannedAttention(const PlannedAttentionInput& input, const SequencePlan& plan,
                              Matrix out, AttentionRecord* record);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_REFERENCE_PLANNED_ATTENTION_H_
