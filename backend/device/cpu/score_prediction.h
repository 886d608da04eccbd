// Device::PredictScores on the cpu device: a task is one head's scores of a block of queries. Codes
// are signed powers of two, so the float kernel's sums are exact.
#ifndef THRESHER_BACKEND_DEVICE_CPU_SCORE_PREDICTION_H_
#define THRESHER_BACKEND_DEVICE_CPU_SCORE_PREDICTION_H_

#include <cstdint>
#include <span>

#include "backend/device/cpu/thread_pool.h"
#include "backend/device/cpu/worker_scratch.h"
#include "backend/device/eager_prediction.h"

namespace thresher {

/// Calls `body` for each block of queries of each of `heads`, on the pool's threads. The operands
/// are checked. Throws std::bad_alloc.
void PredictScores(const ScoreOperands& operands, std::span<const int32_t> heads,
                   ScoreBlockBody body, ThreadPool* pool, WorkerScratch* scratch);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_SCORE_PREDICTION_H_
