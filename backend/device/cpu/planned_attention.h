// Attention of one head of one sequence under a plan, for a block of its queries: what AttendHead
// is to dense attention, with the rules of reference/planned_attention.h and the statistics.
//
// Unlike there, the weights e^(score - largest) of the whole block stay until its rows' maxima and
// sums are final: the statistics and the choice of values need probabilities. Each row goes through
// the same operations in the same order as in AttendHead, so that where nothing is left out it has
// the same bits, and asking for statistics never changes an answer.
#ifndef THRESHER_BACKEND_DEVICE_CPU_PLANNED_ATTENTION_H_
#define THRESHER_BACKEND_DEVICE_CPU_PLANNED_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "backend/device/cpu/attention.h"
#include "backend/device/plan.h"
#include "backend/tensor/matrix.h"

namespace thresher {

struct PlannedHeadTask {
  HeadTask head;
  // The lists, for the block's queries. Null: every key is a candidate; every query runs.
  const uint64_t* candidates = nullptr;  // The first query's row of bits,
  int64_t candidate_words = 0;           // and how many words further the next begins.
  const int32_t* one_hot = nullptr;
  // The rules. With progressive quantization, head.key is what the first scores read.
  double value_keep = 1.0;
  double value_threshold = 0.0;
  double refetch_threshold = 0.0;  // Rows whose largest probability is below are made again,
  ConstMatrix full_key;            // from these keys. Empty: no quantization.
  /// Added to the exponents (of 2) of each key; whole vectors are read at its end. Null: nothing.
  const float* key_bias = nullptr;
  /// A bit for each key: sinks, of whose probability all but `beta` goes to the other
  /// keys. Null: none.
  const uint64_t* sinks = nullptr;
  double beta = 1.0;
  WantedStatistics wanted;
  /// Only the column sums, of the probabilities before any calibration.
  bool only_sums = false;
};

/// What a block did. Its sums go to memory of the caller.
struct PlannedHeadRecord {
  double head_l1 = 0;
  double entropy = 0;
  double sink = 0;
  int64_t rows = 0;
  int64_t refetched_rows = 0;
  int64_t scores = 0;
  int64_t refetched_scores = 0;
  int64_t values = 0;
};

/// Floats of scratch that AttendPlannedHead needs for a sequence of `keys`.
size_t PlannedAttentionScratchSize(int64_t head_dim, int64_t keys);

/// Where the sums of a block go, if they are wanted.
struct PlannedHeadSums {
  float* column = nullptr;  // [key.rows]: overwritten by the block's part.
  float* self = nullptr;    // [query.rows]: overwritten.
};

/// Writes the block's output [query.rows, head_dim], its record and the sums. `scratch` is aligned
/// to 64 bytes. Rows of Q, K and V that the plan does not need are not read, or what is read of
/// them has no effect.
void AttendPlannedHead(const PlannedHeadTask& task, float* scratch, Matrix out,
                       PlannedHeadRecord* record, const PlannedHeadSums& sums);

/// Progressive quantization of rows of one head, as it is read: `full` are the values that
/// msb + lsb bits leave, `upper` (unless empty) those that the upper msb bits leave.
void QuantizePlanes(ConstMatrix x, int32_t msb_bits, int32_t lsb_bits, Matrix full, Matrix upper);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_PLANNED_ATTENTION_H_
