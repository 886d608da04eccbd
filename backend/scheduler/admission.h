// Who is let in: the rules by which a job is refused before it waits, instead of after.
// docs/scheduling.md has them in words.
//
// A refusal that a later try may escape is RESOURCE_EXHAUSTED and has a retry hint (retry_hint.h).
// Not thread-safe; the scheduler holds its lock around it.
#ifndef THRESHER_BACKEND_SCHEDULER_ADMISSION_H_
#define THRESHER_BACKEND_SCHEDULER_ADMISSION_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "backend/scheduler/job_queue.h"
#include "backend/scheduler/lane.h"
#include "backend/scheduler/scheduler.h"

namespace thresher {

/// DEADLINE_EXCEEDED: the job's own time is more than it has left.
absl::Status OwnTimeExceeds(absl::Duration left, absl::Duration own);

class Admission {
 public:
  /// What waits before a job, and the batch that it is in, are allowed to take so many times as
  /// long as predicted.
  static constexpr int kMargin = 2;

  /// What a job would wait for.
  struct Ahead {
    absl::Duration running;  // The rest of the batch that runs.
    absl::Duration queued;   // What waits and would run before it;
    int64_t cost = 0;        // of this, what is in its own lane.
    absl::Duration all() const { return running + queued; }
  };

  /// Both must outlive it.
  Admission(const SchedulerOptions* options, const Lanes* lanes)
      : options_(*options), lanes_(*lanes) {}

  // `lane` is that of the job's engine, or null.

  /// Of a job like this that came now.
  Ahead AheadOf(const Job& job, const Lane* lane, absl::Time now) const;
  /// Whether so many more may wait, where `queued` do.
  absl::Status CheckPlaces(size_t jobs, size_t queued, absl::Time now);
  /// Whether a job like this would wait too long.
  absl::Status CheckWait(const Job& job, const Lane* lane, absl::Time now);
  /// Whether a job that is in the lane will be in time; `before_call`: what was ahead of it before
  /// the first job of its call came.
  absl::Status CheckInTime(const QueuedJob& job, const Lane& lane, const Ahead& before_call,
                           absl::Time now);
  /// How near it is to refusing, where `queued` wait; 1: it refuses.
  double Pressure(size_t queued) const;

 private:
  absl::Duration MostWait(const Job& job, const Lane* lane, absl::Time now) const;
  double PressureInTime(const Lane& lane) const;
  absl::Status RefuseForNow(absl::Status status, absl::Duration wait);
  absl::Status BehindOthers(absl::Duration left, absl::Duration wait, absl::Duration hint);

  const SchedulerOptions& options_;
  const Lanes& lanes_;
  double spread_ = 0.0;  // Of the last retry hint.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_SCHEDULER_ADMISSION_H_
