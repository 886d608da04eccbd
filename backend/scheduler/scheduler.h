// Queues sequences and runs them in ragged batches on one compute executor.
//
// There is no wait timer: when the executor is free it takes what is there, in order of priority,
// then deadline, then arrival, from the engine whose turn it is, as much as fits the budget of
// predicted cost; it never reaches past a job that does not fit. `max_batch_delay` > 0 makes it
// wait that long (from the oldest arrival) for more, but not when the batch is full already, a
// deadline is near, or no more may come.
//
// Honest overload. The queue is bounded, in number and in time: who would wait too long is refused
// at once (RESOURCE_EXHAUSTED, with a hint when to come again: retry_hint.h). How long is too long
// say `patience` and the job's own deadline.
// A deadline is DEADLINE_EXCEEDED without compute if it has passed, or if even an optimistic
// prediction (cost_model.h) of the job's own batch misses it: at Submit, and again when a batch is
// formed. At Submit the job must also be in time behind the rest of the running batch and what runs
// before it, which counts twice: for its own batch takes as long again if as much comes behind it,
// and so that a prediction may err by half before what was accepted is late. In the same spirit a
// batch does not grow beyond half of the time that its most urgent job has left. Without this
// margin all that an overloaded server accepts would be answered just too late.
// A cancelled job is dropped (CANCELLED) when its turn comes. Whoever waits is told when the
// executor next looks, so at the latest when the batch that runs has ended; there are no timers for
// single jobs.
//
// Fairness: engines take turns by the cost they were served (start-time fair queueing): next is the
// engine that was served least, and one that had no work joins level with the batch that runs, so
// idleness earns no credit. A flood on one engine delays another by one batch.
//
// Failure: a sequence that the engine gave a status of its own gets that. A Run's error, or
// exception (INTERNAL), is the whole batch's. A batch of several that fails is run again, each
// sequence alone and once, so that one bad sequence cannot fail its neighbours.
//
// Work that goes on in steps of its own making (generation.h) takes its turns beside the engines'
// batches, by the same rule.
//
// Every accepted job's `done` is called exactly once, on the executor's thread, with no lock held.
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
  /// Must be quick and not throw. May Submit; may not wait for, or destroy, the scheduler.
  std::function<void(absl::StatusOr<JobResult>)> done;
};

struct SchedulerOptions {
  int64_t max_batch_cost = 4096;  // In Engine::Cost units. A single larger job runs alone.
  int32_t max_batch_sequences = 256;
  int32_t max_queue = 1024;  // Jobs that wait, over all models.
  /// Refuses whoever is expected to wait longer than this; 0: no bound. It holds from the first
  /// batch on.
  absl::Duration max_queue_delay = absl::ZeroDuration();
  /// The same, but a job whose deadline is more than ten times as far may wait for a tenth of that;
  /// and it holds for no engine of which fewer than kAlwaysWait calls wait. A server under 90 % of
  /// its load has so many in its queue, however slow it is; more wait only under overload.
  absl::Duration patience = absl::ZeroDuration();
  static constexpr size_t kAlwaysWait = 12;
  absl::Duration max_batch_delay = absl::ZeroDuration();
  Clock* clock = Clock::Real();
};

/// For metrics. Called on the executor's thread with no lock held; must be quick.
class SchedulerObserver {
 public:
  virtual ~SchedulerObserver() = default;
  /// A run of the engine has ended, well or not.
  virtual void OnBatch(const Engine& engine, int32_t sequences, int64_t tokens, int64_t cost,
                       absl::Duration compute) = 0;
};

/// Work that goes on in steps. Called on the executor's thread, with no lock held.
class StepSource {
 public:
  struct Outcome {
    int64_t cost = 0;                                // Of what ran, in dense-token equivalents.
    bool more = false;                               // It wants another turn at once,
    absl::Time look_again = absl::InfiniteFuture();  // or at this time.
  };

  virtual ~StepSource() = default;
  /// One step, or nothing if there is nothing to do.
  virtual Outcome Step() = 0;
  /// The scheduler shuts down: whatever it has ends with UNAVAILABLE. The last call.
  virtual void Shutdown() = 0;
};

class Scheduler {
 public:
  /// Starts the executor thread. `observer` may be null and must outlive the scheduler.
  Scheduler(const SchedulerOptions& options, SchedulerObserver* observer);
  /// Refuses what waits with UNAVAILABLE, finishes the running batch, joins.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Takes all of the jobs or none; they may be of several engines. On error nothing was taken and
  /// no `done` is called:
  ///   RESOURCE_EXHAUSTED  the queue has no room for all of them, or one would wait too long;
  ///   DEADLINE_EXCEEDED   a deadline has passed, or could not be met if nothing else were there;
  ///   UNAVAILABLE         draining or shut down.
  absl::Status Submit(std::vector<Job> jobs);

  /// What Submit would say now, whatever their sequences, of so many jobs like this one: asked
  /// before work is spent on preparing them. OK promises nothing.
  absl::Status CheckRoom(const Job& job, size_t jobs);

  /// `source` takes part from now on; after Notify it gets a turn.
  void Attach(StepSource* source);
  void Notify(StepSource* source);
  /// No call of the source runs when this returns, nor will one. Not on the executor's thread.
  void Detach(StepSource* source);
  /// Counts work of a source's as accepted, which WaitIdle waits for: UNAVAILABLE if no more is
  /// accepted. Leave ends it.
  absl::Status Enter();
  void Leave();

  struct Snapshot {
    int32_t queued = 0;  // Accepted and neither in a batch nor answered: what `max_queue` bounds.
    int64_t queued_cost = 0;    // Of those that can still run.
    absl::Duration oldest_age;  // Of the same; zero if there are none.
    int32_t running = 0;        // Sequences in the batch that runs.
    /// How near the queue is to refusing, in number or in time: from 0 to 1, which refuses.
    double pressure = 0.0;
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
