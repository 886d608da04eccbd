#include "tests/testing/fake_clock.h"

#include <algorithm>
#include <vector>

namespace thresher::testing {

absl::Time FakeClock::Now() {
  MutexLock lock(&mutex_);
  return now_;
}

void FakeClock::WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) {
  // Locks are taken in the order: the waiter's, then the clock's.
  const Waiter waiter{condition, mutex, deadline};
  {
    MutexLock lock(&mutex_);
    if (now_ >= deadline) return;
    waiters_.insert(&waiter);
    waiters_changed_.SignalAll();
  }
  condition->Wait(mutex);
  MutexLock lock(&mutex_);
  waiters_.erase(&waiter);
}

void FakeClock::Advance(absl::Duration duration) {
  std::vector<Waiter> waiters;
  {
    MutexLock lock(&mutex_);
    now_ += duration;
    for (const Waiter* waiter : waiters_) waiters.push_back(*waiter);
  }
  for (const Waiter& waiter : waiters) {
    // A waiter holds its mutex from before it is listed until it sleeps: with it in hand, the
    // signal cannot come too early.
    MutexLock lock(waiter.mutex);
    waiter.condition->SignalAll();
  }
}

void FakeClock::AwaitWaiter(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (std::none_of(waiters_.begin(), waiters_.end(),
                      [&](const Waiter* waiter) { return waiter->deadline == deadline; })) {
    waiters_changed_.Wait(&mutex_);
  }
}

}  // namespace thresher::testing
