// The predicted scores of one head for a block of queries: the cpu device's unit of work of
// Device::PredictScores. Codes are signed powers of two, so the float kernel's sums are exact.
#ifndef THRESHER_BACKEND_DEVICE_CPU_SCORE_PREDICTION_H_
#define THRESHER_BACKEND_DEVICE_CPU_SCORE_PREDICTION_H_

#include <cstddef>
#include <cstdint>

#include "backend/tensor/matrix.h"

namespace thresher {

struct PredictionTask {
  ConstMatrix query;                    // Codes of the block's rows of this head.
  ConstMatrix key;                      // Codes of all rows: [keys, head_dim].
  const float* query_scales = nullptr;  // The first row's, and how many elements further the
  int64_t query_stride = 0;             // next row's is;
  const float* key_scales = nullptr;    // the same of the keys.
  int64_t key_stride = 0;
  float factor = 1.0f;  // Of every score.
};

/// Floats of scratch that PredictBlock needs besides the scores.
size_t PredictionScratchSize(int64_t head_dim);
/// Elements from one row of scores to the next.
int64_t PredictionStride(int64_t keys);

/// scores(i, j) = query(i) . key(j) * (factor * query_scale(i) * key_scale(j)), for the block's
/// rows (at most kQueryBlock) and all keys; rows are PredictionStride(keys) apart.
void PredictBlock(const PredictionTask& task, float* scratch, float* scores);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_SCORE_PREDICTION_H_
