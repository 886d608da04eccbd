#include "backend/scheduler/clock.h"

#include <gtest/gtest.h>

#include "absl/time/clock.h"

namespace thresher {
namespace {

TEST(RealClockTest, NeverGoesBackAndIsNearTheWallClock) {
  Clock* const clock = Clock::Real();
  absl::Time last = clock->Now();
  EXPECT_LT(absl::AbsDuration(last - absl::Now()), absl::Minutes(1));
  for (int i = 0; i < 1000; ++i) {
    const absl::Time now = clock->Now();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(RealClockTest, WaitsUntilTheDeadline) {
  Clock* const clock = Clock::Real();
  Mutex mutex;
  CondVar never;
  MutexLock lock(&mutex);
  clock->WaitUntil(&never, &mutex, absl::InfinitePast());
  clock->WaitUntil(&never, &mutex, clock->Now());
  const absl::Time deadline = clock->Now() + absl::Milliseconds(1);
  while (clock->Now() < deadline) clock->WaitUntil(&never, &mutex, deadline);
}

}  // namespace
}  // namespace thresher
