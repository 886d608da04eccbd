// A clock that stands still until a test advances it.
#ifndef THRESHER_TESTS_TESTING_FAKE_CLOCK_H_
#define THRESHER_TESTS_TESTING_FAKE_CLOCK_H_

#include <set>
#include <utility>

#include "absl/time/time.h"
#include "backend/scheduler/clock.h"

namespace thresher::testing {

/// Thread-safe. Whoever waits on it must outlive the calls of Advance.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(absl::Time start = absl::UnixEpoch()) : now_(start) {}

  absl::Time Now() override;
  void WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) override;

  /// Wakes everybody who waits, so that each looks at the new time. Call it with no lock held that
  /// a waiter uses.
  void Advance(absl::Duration duration);

  /// Blocks until somebody waits until exactly `deadline`.
  void AwaitWaiter(absl::Time deadline);

 private:
  struct Waiter {
    CondVar* condition;
    Mutex* mutex;
    absl::Time deadline;
  };

  Mutex mutex_;
  CondVar waiters_changed_;
  absl::Time now_;
  std::set<const Waiter*> waiters_;
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_TESTING_FAKE_CLOCK_H_
