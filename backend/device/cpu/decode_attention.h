// Attention of one generated token over a KV cache, for the heads that share one KV head: a task of
// the cpu device. Bound by the reading of K and V, which are taken row by row from their pages.
#ifndef THRESHER_BACKEND_DEVICE_CPU_DECODE_ATTENTION_H_
#define THRESHER_BACKEND_DEVICE_CPU_DECODE_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "backend/device/device.h"
#include "backend/device/kv_cache.h"
#include "backend/tensor/matrix.h"

namespace thresher {

struct DecodeTask {
  const CachedAttentionInput* input;
  const CachedSequence* sequence;
  int32_t kv_head = 0;
};

/// What a task did, of CachedRecord.
struct DecodeRecord {
  int64_t refetched_rows = 0;
  int64_t bounds = 0;
  int64_t values = 0;
  int64_t bytes = 0;
};

/// Floats of scratch that AttendDecode needs for the sequence.
size_t DecodeScratchSize(const CachedAttentionInput& input, const CachedSequence& sequence);

/// Writes the task's heads of the sequence's row of `out`; what it does is told in
/// reference/cached_attention.h. Adds probabilities to sums [slots read] of the KV head unless it
/// is null. `stretches` [read_stretches] receives those that the row chose, if it chooses.
/// `scratch` is aligned to 64 bytes.
void AttendDecode(const DecodeTask& task, float* scratch, Matrix out, int64_t* sums,
                  int32_t* stretches, DecodeRecord* record);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_DECODE_ATTENTION_H_
