// Attention over KV caches in plain loops: what every rule of CachedSequence means. The oracle for
// the devices that do it fast.
//
// For each head and row:
//
//   1. The row sees slots: of a prompt, those up to its own; of decode, those that it reads. Where
//      it reads so many stretches, they are chosen by the bounds of q.k (exact top-k; the newest
//      slot's in any case), one choice for the heads that share K.
//   2. Scores are scale * q.k with keys as kv_cache.h keeps them. Decode with planes reads the
//      upper ones first; where the largest probability is below refetch_threshold, all scores are
//      made again from all bits. Prompt rows read all bits at once, and count them as refetched
//      none.
//   3. Sums are of these probabilities, of the rows from sums_from on.
//   4. Decode reads the V rows of the ceil(value_keep * slots seen) largest probabilities
//      (KeepCount, exact top-k); the others add nothing and nothing is renormalised.
//
// Bytes: for each row and head the keys' planes that it read and its V rows, heads that share K and
// V sharing the reading of a key, and of a value where one of them reads it; where stretches are
// chosen, the bounds of all but the newest one.
#ifndef THRESHER_BACKEND_DEVICE_REFERENCE_CACHED_ATTENTION_H_
#define THRESHER_BACKEND_DEVICE_REFERENCE_CACHED_ATTENTION_H_

#include <span>

#include "absl/status/status.h"
#include "backend/device/device.h"
#include "backend/device/kv_cache.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// The input has passed CheckCachedAttention.
void ReferenceCachedAttention(const CachedAttentionInput& input, Matrix out,
                              std::span<CachedRecord> records);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_REFERENCE_CACHED_ATTENTION_H_
