#include "backend/scheduler/clock.h"

#include <chrono>

#include "absl/time/clock.h"

namespace thresher {
namespace {

class RealClock final : public Clock {
 public:
  absl::Time Now() override {
    return wall_ + absl::FromChrono(std::chrono::steady_clock::now() - steady_);
  }

  void WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) override {
    if (deadline == absl::InfiniteFuture()) {
      condition->Wait(mutex);
      return;
    }
    const absl::Duration left = deadline - Now();
    if (left > absl::ZeroDuration()) condition->WaitWithTimeout(mutex, left);
  }

 private:
  const std::chrono::steady_clock::time_point steady_ = std::chrono::steady_clock::now();
  const absl::Time wall_ = absl::Now();
};

}  // namespace

Clock* Clock::Real() {
  // Never destroyed: threads may outlive main.
  static RealClock* const clock = new RealClock;  // NOLINT(cppcoreguidelines-owning-memory)
  return clock;
}

}  // namespace thresher
