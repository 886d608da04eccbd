#include "backend/scheduler/scheduler.h"

#include <pthread.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <map>
#include <span>
#include <thread>
#include <utility>

#include "backend/scheduler/admission.h"
#include "backend/scheduler/job_queue.h"
#include "backend/scheduler/lane.h"
#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// A job that ends without an output, and why.
struct Refusal {
  QueuedJob job;
  absl::Status status;
};

/// Engine::Run, with exceptions turned into INTERNAL.
absl::Status RunEngine(Engine& engine, std::span<const Sequence* const> sequences,
                       std::span<SequenceOutput> outputs) {
  try {
    return engine.Run(sequences, outputs);
  } catch (const std::exception& e) {
    return Internal("the engine threw: {}", e.what());
  } catch (...) {
    return Internal("the engine threw an unknown exception");
  }
}

absl::Status DeadlinePassed(const QueuedJob& job, absl::Time now) {
  return DeadlineExceeded("the deadline passed in the queue, after {} of waiting",
                          absl::FormatDuration(now - job.arrival));
}

bool IsCancelled(const QueuedJob& job) {
  return job.job.cancelled != nullptr && job.job.cancelled->load(std::memory_order_relaxed);
}

/// Whether the job should still run, if its answer comes no sooner than `wait` from now.
absl::Status CheckWanted(const QueuedJob& job, absl::Duration wait, absl::Time now) {
  if (IsCancelled(job)) return Cancelled("cancelled by the caller before it ran");
  if (job.job.deadline <= now) return DeadlinePassed(job, now);
  const absl::Duration left = job.job.deadline - now;
  return wait > left ? OwnTimeExceeds(left, wait) : absl::OkStatus();
}

int64_t Tokens(std::span<const QueuedJob> jobs) {
  int64_t tokens = 0;
  for (const QueuedJob& job : jobs) tokens += static_cast<int64_t>(job.job.sequence.ids.size());
  return tokens;
}

/// Limits below one would stall the queue.
SchedulerOptions AtLeastOne(SchedulerOptions options) {
  options.max_batch_cost = std::max<int64_t>(options.max_batch_cost, 1);
  options.max_batch_sequences = std::max(options.max_batch_sequences, 1);
  options.max_queue = std::max(options.max_queue, 1);
  return options;
}

}  // namespace

class Scheduler::Impl {
 public:
  Impl(const SchedulerOptions& options, SchedulerObserver* observer);
  ~Impl();

  absl::Status Submit(std::vector<Job> jobs);
  absl::Status CheckRoom(const Job& job, size_t jobs);
  Snapshot snapshot();
  void StopAccepting();
  bool WaitIdle(absl::Time deadline);
  void Attach(StepSource* source);
  void Notify(StepSource* source);
  void Detach(StepSource* source);
  absl::Status Enter();
  void Leave();

 private:
  /// What the scheduler knows of a source of steps.
  struct Turn {
    bool ready = false;  // It wants a step.
    absl::Time look_again = absl::InfiniteFuture();
    int64_t served = 0;  // As Lane::served.
    uint64_t number = 0;
  };

  using Batch = std::vector<QueuedJob>;

  /// How one run of an engine went.
  struct Run {
    absl::Status status;
    absl::Time start;
    absl::Duration compute;
  };

  // These want `mutex_` held.
  Lane& LaneOf(const std::shared_ptr<Engine>& engine);
  size_t Queued() const;
  /// Whether so many more may wait.
  absl::Status CheckPlaces(size_t jobs, absl::Time now);
  void TakeExpired(absl::Time now);
  void RefuseAll();
  /// When the lane, which has jobs, may form a batch.
  absl::Time ReleaseTime(const Lane& lane, absl::Time now) const;
  /// The lane whose turn it is; null if none may run before `look_again`.
  Lane* NextLane(absl::Time now, absl::Time* look_again);
  /// The source whose turn it is before that of `lane` (may be null); null if there is none.
  StepSource* NextSource(const Lane* lane, absl::Time now, absl::Time* look_again);
  Batch FormBatch(Lane& lane, absl::Time now);
  void SetRunning(std::span<const QueuedJob> jobs, absl::Time now);

  // The executor's thread, without the lock.
  void Execute();
  void RunStep(StepSource* source);
  void ShutDownSources();
  void RunBatch(Batch batch);
  Run RunOnce(std::span<const QueuedJob> jobs, std::span<SequenceOutput> outputs);
  void Answer(QueuedJob job, absl::StatusOr<JobResult> result);

  const SchedulerOptions options_;
  SchedulerObserver* const observer_;

  Mutex mutex_;
  CondVar changed_;  // For the executor: work, or a change of state.
  CondVar idle_;     // outstanding_ has become zero.
  // All below is guarded by mutex_.
  Lanes lanes_;
  Admission admission_;
  std::map<StepSource*, Turn> sources_;
  StepSource* running_source_ = nullptr;
  CondVar source_idle_;           // running_source_ has become null.
  std::vector<Refusal> refused_;  // No longer in a lane; the executor tells them.
  bool accepting_ = true;
  bool stopping_ = false;
  uint64_t arrivals_ = 0;
  int64_t outstanding_ = 0;   // Accepted jobs whose `done` has not returned.
  int64_t virtual_time_ = 0;  // The `served` with which the latest batch was begun.

  std::thread executor_;  // Last: it uses all of the above.
};

Scheduler::Impl::Impl(const SchedulerOptions& options, SchedulerObserver* observer)
    : options_(AtLeastOne(options)),
      observer_(observer),
      admission_(&options_, &lanes_),
      executor_([this] { Execute(); }) {}

Scheduler::Impl::~Impl() {
  {
    MutexLock lock(&mutex_);
    accepting_ = false;
    stopping_ = true;
    changed_.SignalAll();
  }
  executor_.join();
}

// ---- Admission ----

Lane& Scheduler::Impl::LaneOf(const std::shared_ptr<Engine>& engine) {
  // A lane is of no more use when its engine is gone, and must not pass to another at the same
  // address. Jobs keep their engine alive; but a caller's pointer need not own it, so that is not
  // relied on.
  const auto gone = [this](const auto& entry) {
    const Lane& lane = entry.second;
    return lane.engine.expired() && lane.queue.empty() && &lane != lanes_.current.lane;
  };
  const auto found = lanes_.of.find(engine.get());
  if (found != lanes_.of.end() && !gone(*found)) return found->second;
  std::erase_if(lanes_.of, gone);
  Lane& lane = lanes_.of[engine.get()];
  lane.engine = engine;
  return lane;
}

size_t Scheduler::Impl::Queued() const {
  size_t queued = refused_.size();
  for (const auto& [engine, lane] : lanes_.of) queued += lane.queue.size();
  return queued;
}

void Scheduler::Impl::TakeExpired(absl::Time now) {
  for (auto& [engine, lane] : lanes_.of) {
    while (std::optional<QueuedJob> job = lane.queue.PopExpired(now)) {
      absl::Status status = DeadlinePassed(*job, now);
      refused_.push_back({*std::move(job), std::move(status)});
    }
  }
}

absl::Status Scheduler::Impl::CheckPlaces(size_t jobs, absl::Time now) {
  if (!accepting_) return Unavailable("the server is shutting down");
  TakeExpired(now);
  return admission_.CheckPlaces(jobs, Queued(), now);
}

absl::Status Scheduler::Impl::CheckRoom(const Job& job, size_t jobs) {
  MutexLock lock(&mutex_);
  const absl::Time now = options_.clock->Now();
  THRESHER_RETURN_IF_ERROR(CheckPlaces(jobs, now));
  return admission_.CheckWait(job, lanes_.Find(job.engine.get()), now);
}

absl::Status Scheduler::Impl::Submit(std::vector<Job> jobs) {
  Batch batch;  // Destroyed, like `jobs`, after the lock is released: callbacks may own anything.
  batch.reserve(jobs.size());
  for (Job& job : jobs) {
    const int64_t cost = std::max<int64_t>(1, job.engine->Cost(job.sequence));
    batch.push_back({.job = std::move(job), .cost = cost});
  }

  MutexLock lock(&mutex_);
  const absl::Time now = options_.clock->Now();
  THRESHER_RETURN_IF_ERROR(CheckPlaces(batch.size(), now));
  struct Place {
    Admission::Ahead before_call;
    Lane* lane = nullptr;
    uint64_t number = 0;
  };
  std::vector<Place> places;
  places.reserve(batch.size());
  for (const QueuedJob& job : batch) {
    const Lane* const lane = lanes_.Find(job.job.engine.get());
    THRESHER_RETURN_IF_ERROR(admission_.CheckWait(job.job, lane, now));
    places.push_back({admission_.AheadOf(job.job, lane, now)});
  }

  // The jobs delay each other too, so all are queued before it is judged whether they are in time.
  for (size_t i = 0; i < batch.size(); ++i) {
    QueuedJob& job = batch[i];
    Lane& lane = LaneOf(job.job.engine);
    if (lane.queue.empty()) lane.served = std::max(lane.served, virtual_time_);
    job.arrival = now;
    job.number = arrivals_++;
    job.leads = i == 0;
    places[i].lane = &lane;
    places[i].number = job.number;
    lane.queue.Push(std::move(job));
  }
  absl::Status status;
  for (const Place& place : places) {
    const QueuedJob& job = place.lane->queue.Get(place.number);
    status = admission_.CheckInTime(job, *place.lane, place.before_call, now);
    if (!status.ok()) break;
  }
  if (!status.ok()) {
    for (size_t i = 0; i < places.size(); ++i) {
      batch[i] = places[i].lane->queue.Remove(places[i].number);
    }
    return status;
  }
  outstanding_ += static_cast<int64_t>(batch.size());
  changed_.Signal();
  return absl::OkStatus();
}

// ---- Choice of what runs next ----

absl::Time Scheduler::Impl::ReleaseTime(const Lane& lane, absl::Time now) const {
  const absl::Duration delay = options_.max_batch_delay;
  const JobQueue& queue = lane.queue;
  if (delay <= absl::ZeroDuration() || !accepting_ || queue.cost() >= options_.max_batch_cost ||
      queue.size() >= static_cast<size_t>(options_.max_batch_sequences)) {
    return absl::InfinitePast();
  }
  // A deadline leaves time for the run and, since that may be unknown, for one delay more.
  return std::min(queue.Oldest().arrival + delay,
                  queue.EarliestDeadline() - lane.model.AtLeast(queue.cost(), now) - delay);
}

Lane* Scheduler::Impl::NextLane(absl::Time now, absl::Time* look_again) {
  *look_again = absl::InfiniteFuture();
  Lane* next = nullptr;
  const auto turn = [](const Lane& lane) {
    return std::pair(lane.served, lane.queue.Oldest().number);
  };
  for (auto& [engine, lane] : lanes_.of) {
    if (lane.queue.empty()) continue;
    const absl::Time release = ReleaseTime(lane, now);
    if (release > now) {
      *look_again = std::min(*look_again, release);
    } else if (next == nullptr || turn(lane) < turn(*next)) {
      next = &lane;
    }
  }
  return next;
}

StepSource* Scheduler::Impl::NextSource(const Lane* lane, absl::Time now, absl::Time* look_again) {
  StepSource* next = nullptr;
  std::pair<int64_t, uint64_t> first = {std::numeric_limits<int64_t>::max(), 0};
  if (lane != nullptr) first = {lane->served, lane->queue.Oldest().number};
  for (auto& [source, turn] : sources_) {
    if (!turn.ready && turn.look_again > now) {
      *look_again = std::min(*look_again, turn.look_again);
    } else if (const std::pair at(turn.served, turn.number); at < first) {
      next = source;
      first = at;
    }
  }
  return next;
}

Scheduler::Impl::Batch Scheduler::Impl::FormBatch(Lane& lane, absl::Time now) {
  Batch batch;
  int64_t cost = 0;
  absl::Time earliest = absl::InfiniteFuture();  // Deadline in the batch.
  while (!lane.queue.empty()) {
    const QueuedJob& front = lane.queue.Front();
    absl::Status status = CheckWanted(front, lane.model.AtLeast(cost + front.cost, now), now);
    if (!status.ok()) {
      refused_.push_back({lane.queue.PopFront(), std::move(status)});
      continue;
    }
    const bool full = batch.size() >= static_cast<size_t>(options_.max_batch_sequences) ||
                      front.cost > options_.max_batch_cost - cost ||
                      Admission::kMargin * lane.model.Likely(cost + front.cost) > earliest - now;
    if (full && !batch.empty()) break;
    cost += front.cost;
    earliest = std::min(earliest, front.job.deadline);
    batch.push_back(lane.queue.PopFront());
  }
  if (!batch.empty()) {
    virtual_time_ = lane.served;
    lane.served += cost;
    lanes_.current.lane = &lane;
    SetRunning(batch, now);
  }
  return batch;
}

void Scheduler::Impl::SetRunning(std::span<const QueuedJob> jobs, absl::Time now) {
  CurrentRun& run = lanes_.current;
  run.jobs = static_cast<int32_t>(jobs.size());
  run.cost = 0;
  for (const QueuedJob& job : jobs) run.cost += job.cost;
  run.since = now;
}

// ---- Execution ----

void Scheduler::Impl::RefuseAll() {
  for (auto& [engine, lane] : lanes_.of) {
    while (!lane.queue.empty()) {
      refused_.push_back({lane.queue.PopFront(), Unavailable("the server shut down")});
    }
  }
}

void Scheduler::Impl::Execute() {
  pthread_setname_np(pthread_self(), "executor");
  while (true) {
    Batch batch;
    StepSource* source = nullptr;
    std::vector<Refusal> refused;
    {
      MutexLock lock(&mutex_);
      while (true) {
        const absl::Time now = options_.clock->Now();
        TakeExpired(now);
        if (stopping_) RefuseAll();
        absl::Time look_again;
        Lane* const lane = NextLane(now, &look_again);
        if (!stopping_) source = NextSource(lane, now, &look_again);
        if (source != nullptr) break;
        if (lane != nullptr) batch = FormBatch(*lane, now);
        if (!batch.empty() || !refused_.empty() || stopping_) break;
        options_.clock->WaitUntil(&changed_, &mutex_, look_again);
      }
      refused.swap(refused_);
    }
    for (Refusal& refusal : refused) Answer(std::move(refusal.job), std::move(refusal.status));
    if (source != nullptr) {
      RunStep(source);
    } else if (!batch.empty()) {
      RunBatch(std::move(batch));
    } else if (refused.empty()) {
      return ShutDownSources();
    }
  }
}

void Scheduler::Impl::RunStep(StepSource* source) {
  {
    MutexLock lock(&mutex_);
    const auto found = sources_.find(source);
    if (found == sources_.end()) return;  // Detached in the meantime.
    Turn& turn = found->second;
    // By its own clock; whoever was idle joins level.
    if (!turn.ready) turn.served = std::max(turn.served, virtual_time_);
    turn.ready = false;
    turn.look_again = absl::InfiniteFuture();
    virtual_time_ = turn.served;
    running_source_ = source;
  }
  const StepSource::Outcome outcome = source->Step();
  MutexLock lock(&mutex_);
  // Detach waits for running_source_, so the source is still known.
  Turn& turn = sources_[source];
  turn.served += outcome.cost;
  turn.ready |= outcome.more;
  turn.look_again = outcome.look_again;
  running_source_ = nullptr;
  source_idle_.SignalAll();
}

void Scheduler::Impl::ShutDownSources() {
  while (true) {
    StepSource* source;
    {
      MutexLock lock(&mutex_);
      if (sources_.empty()) return;
      source = running_source_ = sources_.begin()->first;
    }
    source->Shutdown();
    MutexLock lock(&mutex_);
    sources_.erase(source);
    running_source_ = nullptr;
    source_idle_.SignalAll();
  }
}

Scheduler::Impl::Run Scheduler::Impl::RunOnce(std::span<const QueuedJob> jobs,
                                              std::span<SequenceOutput> outputs) {
  std::vector<const Sequence*> sequences;
  sequences.reserve(jobs.size());
  for (const QueuedJob& job : jobs) sequences.push_back(&job.job.sequence);
  Engine& engine = *jobs.front().job.engine;
  Run run;
  run.start = options_.clock->Now();
  {
    MutexLock lock(&mutex_);
    SetRunning(jobs, run.start);
  }
  run.status = RunEngine(engine, sequences, outputs);
  const absl::Time end = options_.clock->Now();
  run.compute = end - run.start;
  int64_t cost;
  {
    MutexLock lock(&mutex_);
    cost = lanes_.current.cost;
    if (run.status.ok()) lanes_.current.lane->model.Add(cost, run.compute, end);
    lanes_.current.jobs = 0;
  }
  if (observer_ != nullptr) {
    observer_->OnBatch(engine, static_cast<int32_t>(jobs.size()), Tokens(jobs), cost, run.compute);
  }
  return run;
}

void Scheduler::Impl::RunBatch(Batch batch) {
  std::vector<SequenceOutput> outputs(batch.size());
  const Run run = RunOnce(batch, outputs);
  if (run.status.ok()) {
    const int32_t sequences = static_cast<int32_t>(batch.size());
    const int32_t tokens = static_cast<int32_t>(Tokens(batch));
    for (size_t i = 0; i < batch.size(); ++i) {
      if (!outputs[i].status.ok()) {
        Answer(std::move(batch[i]), outputs[i].status);
        continue;
      }
      const absl::Duration queue = run.start - batch[i].arrival;
      Answer(std::move(batch[i]),
             JobResult{std::move(outputs[i]), queue, run.compute, sequences, tokens});
    }
  } else if (batch.size() == 1) {
    Answer(std::move(batch.front()), run.status);
  } else {
    for (QueuedJob& job : batch) {
      absl::Status status = CheckWanted(job, absl::ZeroDuration(), options_.clock->Now());
      if (!status.ok()) {
        Answer(std::move(job), std::move(status));
      } else {
        Batch alone;
        alone.push_back(std::move(job));
        RunBatch(std::move(alone));
      }
    }
  }
}

void Scheduler::Impl::Answer(QueuedJob job, absl::StatusOr<JobResult> result) {
  {
    QueuedJob ended = std::move(job);
    ended.job.done(std::move(result));
  }  // Whatever the job kept alive is gone before the scheduler calls itself idle.
  MutexLock lock(&mutex_);
  if (--outstanding_ == 0) idle_.SignalAll();
}

// ---- State ----

Scheduler::Snapshot Scheduler::Impl::snapshot() {
  MutexLock lock(&mutex_);
  Snapshot snapshot;
  snapshot.queued = static_cast<int32_t>(Queued());
  snapshot.running = lanes_.current.jobs;
  snapshot.pressure = admission_.Pressure(Queued());
  absl::Time oldest = absl::InfiniteFuture();
  for (const auto& [engine, lane] : lanes_.of) {
    if (lane.queue.empty()) continue;
    snapshot.queued_cost += lane.queue.cost();
    oldest = std::min(oldest, lane.queue.Oldest().arrival);
  }
  if (oldest != absl::InfiniteFuture()) snapshot.oldest_age = options_.clock->Now() - oldest;
  return snapshot;
}

void Scheduler::Impl::StopAccepting() {
  MutexLock lock(&mutex_);
  accepting_ = false;
  changed_.Signal();  // No more may come, so there is no reason to delay a batch.
}

bool Scheduler::Impl::WaitIdle(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (outstanding_ > 0 && options_.clock->Now() < deadline) {
    options_.clock->WaitUntil(&idle_, &mutex_, deadline);
  }
  return outstanding_ == 0;
}

// ---- Sources of steps ----

void Scheduler::Impl::Attach(StepSource* source) {
  MutexLock lock(&mutex_);
  sources_[source].number = arrivals_++;
}

void Scheduler::Impl::Notify(StepSource* source) {
  MutexLock lock(&mutex_);
  const auto found = sources_.find(source);
  if (found == sources_.end() || found->second.ready) return;
  Turn& turn = found->second;
  turn.ready = true;
  if (source == running_source_) return;
  turn.served = std::max(turn.served, virtual_time_);
  changed_.Signal();
}

void Scheduler::Impl::Detach(StepSource* source) {
  MutexLock lock(&mutex_);
  while (running_source_ == source) source_idle_.Wait(&mutex_);
  sources_.erase(source);
}

absl::Status Scheduler::Impl::Enter() {
  MutexLock lock(&mutex_);
  if (!accepting_) return Unavailable("the server is shutting down");
  ++outstanding_;
  return absl::OkStatus();
}

void Scheduler::Impl::Leave() {
  MutexLock lock(&mutex_);
  if (--outstanding_ == 0) idle_.SignalAll();
}

// ---- The interface ----

Scheduler::Scheduler(const SchedulerOptions& options, SchedulerObserver* observer)
    : impl_(std::make_unique<Impl>(options, observer)) {}
Scheduler::~Scheduler() = default;

absl::Status Scheduler::Submit(std::vector<Job> jobs) { return impl_->Submit(std::move(jobs)); }
absl::Status Scheduler::CheckRoom(const Job& job, size_t jobs) {
  return impl_->CheckRoom(job, jobs);
}
Scheduler::Snapshot Scheduler::snapshot() const { return impl_->snapshot(); }
void Scheduler::Attach(StepSource* source) { impl_->Attach(source); }
void Scheduler::Notify(StepSource* source) { impl_->Notify(source); }
void Scheduler::Detach(StepSource* source) { impl_->Detach(source); }
absl::Status Scheduler::Enter() { return impl_->Enter(); }
void Scheduler::Leave() { impl_->Leave(); }
void Scheduler::StopAccepting() { impl_->StopAccepting(); }
bool Scheduler::WaitIdle(absl::Time deadline) { return impl_->WaitIdle(deadline); }

}  // namespace thresher
