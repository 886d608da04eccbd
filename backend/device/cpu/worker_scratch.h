// Memory that the tasks of one operation work in: a piece for each worker of a ThreadPool, used by
// one operation after another.
#ifndef THRESHER_BACKEND_DEVICE_CPU_WORKER_SCRATCH_H_
#define THRESHER_BACKEND_DEVICE_CPU_WORKER_SCRATCH_H_

#include <cstddef>
#include <vector>

#include "backend/tensor/matrix.h"

namespace thresher {

class WorkerScratch {
 public:
  explicit WorkerScratch(int workers) : buffers_(static_cast<size_t>(workers)) {}

  /// Gives each worker room for `floats`, with undefined contents. Not within a loop of the pool.
  /// Throws std::bad_alloc.
  void Resize(size_t floats) {
    for (AlignedBuffer<float>& buffer : buffers_) buffer.Resize(floats);
  }
  /// Aligned to 64 bytes.
  float* of(int worker) { return buffers_[static_cast<size_t>(worker)].data(); }

 private:
  std::vector<AlignedBuffer<float>> buffers_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_WORKER_SCRATCH_H_
