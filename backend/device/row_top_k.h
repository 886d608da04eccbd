// Exact top-k of one row after the other as rows of bits, at vector speed: TopK's rule (top_k.h)
// for predictors that choose keys for every query and head.
#ifndef THRESHER_BACKEND_DEVICE_ROW_TOP_K_H_
#define THRESHER_BACKEND_DEVICE_ROW_TOP_K_H_

#include <cstdint>
#include <span>

#include "backend/tensor/matrix.h"

namespace thresher {

/// Keeps its memory between calls; one thread at a time.
class RowTopK {
 public:
  /// Sets in `chosen` (64 scores a word, the first lowest; ceil(size / 64) words) the bits of the
  /// `k` largest of `scores` and clears all others. None when k <= 0, all when k >= size.
  void operator()(std::span<const float> scores, int64_t k, uint64_t* chosen);

 private:
  AlignedBuffer<int32_t> ordered_;
};

/// The index of the largest score: of equals the first, NaN below everything; 0 for none.
int64_t FirstLargest(std::span<const float> scores);

/// The sum of e^(score - largest) over all scores, in float; NaN if one of them is. `largest` is at
/// least each of them.
float SumOfExp(std::span<const float> scores, float largest);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_ROW_TOP_K_H_
