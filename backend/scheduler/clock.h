// Time as the scheduler sees it, so that tests can turn it by hand.
#ifndef THRESHER_BACKEND_SCHEDULER_CLOCK_H_
#define THRESHER_BACKEND_SCHEDULER_CLOCK_H_

#include "absl/time/time.h"
#include "backend/tensor/mutex.h"

namespace thresher {

/// Monotonic: Now() never goes back. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() = 0;
  /// Waits on `condition`, with `mutex` held, until signalled or `deadline`. May wake early.
  virtual void WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) = 0;

  /// The machine's own: CLOCK_MONOTONIC, anchored to wall time at first use.
  static Clock* Real();
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_SCHEDULER_CLOCK_H_
