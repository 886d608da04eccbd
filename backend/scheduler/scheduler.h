// Queues sequences and runs them in ragged batches on one compute executor.
//
// There is no wait timer: when the executor is free it takes what is there, in order of priority,
// then deadline, then arrival, from the model whose turn it is, as much as fits the budget of predicted
// cost. `max_batch_delay` > 0 makes it wait that long (from the oldest arrival) for more.
//
// Honest overload: the queue is bounded and a full one refuses at once (RESOURCE_EXHAUSTED); a
// deadline that has passed, or that the predicted wait would miss, is DEADLINE_EXCEEDED before any
// compute; a cancelled job is dropped before compute. Every accepted job's `done` is called exactly
// once, on the executor's thread.
//
// Models share the executor fairly: queues (one for each engine) take turns by served cost (deficit
// round robin), so that a flood on one model delays another by at most about one batch.
#ifndef THRESHER_BACKEND_SCHEDULER_SCHEDULER_H_
#define THRESHER_BACKEND_SCHEDULER_SCHEDULER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/engine/engine.h"
#include "backend/scheduler/clock.h"

namespace thresher {

struct JobResult {
  SequenceOutput output;
  absl::Duration queue;    // From Submit to the start of its batch.
  absl::Duration compute;  // The batch's run.
  int32_t batch_sequences = 0;
  int32_t batch_tokens = 0;
};

/// One sequence to run. The engine must have found it valid.
struct Job {
  std::shared_ptr<Engine> engine;  // Kept alive until `done` has returned.
  Sequence sequence;
  absl::Time deadline = absl::InfiniteFuture();
  int32_t priority = 0;  // Higher first.
  /// Set by the caller to drop the job before compute; may be null.
  std::shared_ptr<const std::atomic<bool>> cancelled;
  std::function<void(absl::StatusOr<JobResult>)> done;
};

struct SchedulerOptions {
  int64_t max_batch_cost = 4096;  // In Engine::Cost units. A single larger job runs alone.
  int32_t max_batch_sequences = 256;
  int32_t max_queue = 1024;  // Jobs that wait, over all models.
  absl::Duration max_batch_delay = absl::ZeroDuration();
  Clock* clock = Clock::Real();
};

/// Told of every batch and refusal, on the thread where it happens; must be quick. For metrics.
class SchedulerObserver {
 public:
  virtual ~SchedulerObserver() = default;
  virtual void OnBatch(const Engine& engine, int32_t sequences, int64_t tokens, int64_t cost,
                       absl::Duration compute) = 0;
};

class Scheduler {
 public:
  /// Starts the executor thread. `observer` may be null and must outlive the scheduler.
  Scheduler(const SchedulerOptions& options, SchedulerObserver* observer);
  /// Refuses what waits with UNAVAILABLE, finishes the running batch, joins.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// All or none. On error nothing was taken and no `done` is called:
  ///   RESOURCE_EXHAUSTED  the queue has no room for all of them;
  ///   DEADLINE_EXCEEDED   a deadline has passed, or can't be met at the present rate;
  ///   UNAVAILABLE         draining or shut down.
  absl::Status Submit(std::vector<Job> jobs);

  struct Snapshot {
    int32_t queued = 0;
    int64_t queued_cost = 0;
    absl::Duration oldest_age;  // Zero if nothing waits.
    int32_t running = 0;        // Sequences in the batch that runs.
  };
  Snapshot snapshot() const;

  /// From now on Submit is UNAVAILABLE; what was accepted still runs.
  void StopAccepting();
  /// Waits until all accepted work is done, or until `deadline`. True if it is done.
  bool WaitIdle(absl::Time deadline);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_SCHEDULER_SCHEDULER_H_
