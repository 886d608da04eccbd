#include "backend/scheduler/scheduler.h"

#include <pthread.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <map>
#include <span>
#include <thread>
#include <utility>

#include "backend/scheduler/cost_model.h"
#include "backend/scheduler/job_queue.h"
#include "backend/scheduler/retry_hint.h"
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

absl::Status OwnTimeExceeds(absl::Duration left, absl::Duration own) {
  return DeadlineExceeded("the deadline is {} away and the answer would take at least {}",
                          absl::FormatDuration(left), absl::FormatDuration(own));
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

/// What waits before a job, and the batch that it is in, are allowed to take so many times as long
/// as predicted.
constexpr int kMargin = 2;

absl::Status BehindOthers(absl::Duration left, absl::Duration wait) {
  return ResourceExhausted("the deadline is {} away, too near with about {} of work ahead",
                           absl::FormatDuration(left), absl::FormatDuration(wait));
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

  /// What the scheduler knows of one engine.
  struct Lane {
    std::weak_ptr<Engine> engine;
    JobQueue queue;
    CostModel model;
    int64_t served = 0;  // Virtual time: cost served, and more where the lane was idle.
  };
  using Batch = std::vector<QueuedJob>;

  /// What a job would wait for.
  struct Ahead {
    absl::Duration running;  // The rest of the batch that runs.
    absl::Duration queued;   // What waits and would run before it;
    int64_t cost = 0;        // of this, what is in its own lane.
    absl::Duration all() const { return running + queued; }
  };

  /// How one run of an engine went.
  struct Run {
    absl::Status status;
    absl::Time start;
    absl::Duration compute;
  };

  // These want `mutex_` held.
  Lane& LaneOf(const std::shared_ptr<Engine>& engine);
  const Lane* FindLane(const Engine* engine) const;
  size_t Queued() const;
  absl::Duration RestOfRun(absl::Time now) const;
  /// Of a job like this that came now; `lane` is its engine's, or null.
  Ahead AheadOf(const Job& job, const Lane* lane, absl::Time now) const;
  /// Whether so many more may wait.
  absl::Status CheckPlaces(size_t jobs, absl::Time now);
  /// How long a job like this may wait at most.
  absl::Duration MostWait(const Job& job, const Lane* lane, absl::Time now) const;
  /// Whether a job like this would wait too long.
  absl::Status CheckWait(const Job& job, const Lane* lane, absl::Time now);
  /// Whether a job that is in the lane will be in time; `before_call`: what was ahead of it before
  /// the first job of its call came.
  absl::Status CheckInTime(const QueuedJob& job, const Lane& lane, const Ahead& before_call,
                           absl::Time now);
  absl::Status RefuseForNow(absl::Status status, absl::Duration wait);
  /// How near the lane is to refusing for want of time; 1 and more: it refuses.
  double PressureInTime(const Lane& lane) const;
  /// From one half to one, another each time: callers who are refused together come back apart.
  double Spread();
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
  std::map<const Engine*, Lane> lanes_;
  std::map<StepSource*, Turn> sources_;
  StepSource* running_source_ = nullptr;
  CondVar source_idle_;           // running_source_ has become null.
  std::vector<Refusal> refused_;  // No longer in a lane; the executor tells them.
  bool accepting_ = true;
  bool stopping_ = false;
  uint64_t arrivals_ = 0;
  double spread_ = 0.0;           // Of the last retry hint.
  int64_t outstanding_ = 0;       // Accepted jobs whose `done` has not returned.
  int64_t virtual_time_ = 0;      // The `served` with which the latest batch was begun.
  Lane* running_lane_ = nullptr;  // Of the latest batch.
  // The run in progress, if running_ > 0.
  int32_t running_ = 0;
  int64_t running_cost_ = 0;
  absl::Time running_since_;

  std::thread executor_;  // Last: it uses all of the above.
};

Scheduler::Impl::Impl(const SchedulerOptions& options, SchedulerObserver* observer)
    : options_(AtLeastOne(options)), observer_(observer), executor_([this] { Execute(); }) {}

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

Scheduler::Impl::Lane& Scheduler::Impl::LaneOf(const std::shared_ptr<Engine>& engine) {
  // A lane is of no more use when its engine is gone, and must not pass to another at the same
  // address. Jobs keep their engine alive; but a caller's pointer need not own it, so that is not
  // relied on.
  const auto gone = [this](const auto& entry) {
    const Lane& lane = entry.second;
    return lane.engine.expired() && lane.queue.empty() && &lane != running_lane_;
  };
  const auto found = lanes_.find(engine.get());
  if (found != lanes_.end() && !gone(*found)) return found->second;
  std::erase_if(lanes_, gone);
  Lane& lane = lanes_[engine.get()];
  lane.engine = engine;
  return lane;
}

size_t Scheduler::Impl::Queued() const {
  size_t queued = refused_.size();
  for (const auto& [engine, lane] : lanes_) queued += lane.queue.size();
  return queued;
}

void Scheduler::Impl::TakeExpired(absl::Time now) {
  for (auto& [engine, lane] : lanes_) {
    while (std::optional<QueuedJob> job = lane.queue.PopExpired(now)) {
      absl::Status status = DeadlinePassed(*job, now);
      refused_.push_back({*std::move(job), std::move(status)});
    }
  }
}

absl::Status Scheduler::Impl::CheckPlaces(size_t jobs, absl::Time now) {
  if (!accepting_) return Unavailable("the server is shutting down");
  const auto room = static_cast<size_t>(options_.max_queue);
  if (jobs > room) {
    return ResourceExhausted(
        "{} sequences at once are more than the queue ever holds, {}: send fewer", jobs, room);
  }
  TakeExpired(now);
  if (Queued() + jobs <= room) return absl::OkStatus();
  absl::Duration wait = RestOfRun(now);
  for (const auto& [engine, lane] : lanes_) wait += lane.model.Likely(lane.queue.cost());
  return RefuseForNow(ResourceExhausted("the queue is full: {} of {} places are taken and {} are "
                                        "wanted",
                                        Queued(), room, jobs),
                      wait);
}

absl::Duration Scheduler::Impl::MostWait(const Job& job, const Lane* lane, absl::Time now) const {
  if (options_.max_queue_delay > absl::ZeroDuration()) return options_.max_queue_delay;
  const bool long_queue = lane != nullptr && lane->queue.calls() >= SchedulerOptions::kAlwaysWait;
  if (options_.patience <= absl::ZeroDuration() || !long_queue) return absl::InfiniteDuration();
  if (job.deadline == absl::InfiniteFuture()) return options_.patience;
  return std::max(options_.patience, (job.deadline - now) / 10);
}

absl::Status Scheduler::Impl::CheckWait(const Job& job, const Lane* lane, absl::Time now) {
  if (job.deadline <= now) return DeadlineExceeded("the deadline has passed");
  const Ahead ahead = AheadOf(job, lane, now);
  if (const absl::Duration most = MostWait(job, lane, now); ahead.all() > most) {
    return RefuseForNow(
        ResourceExhausted("the wait is expected to be {}, and {} is the most",
                          absl::FormatDuration(ahead.all()), absl::FormatDuration(most)),
        ahead.all());
  }
  const absl::Duration left = job.deadline - now;
  if (ahead.running + kMargin * ahead.queued <= left) return absl::OkStatus();
  return RefuseForNow(BehindOthers(left, ahead.all()), ahead.all());
}

absl::Status Scheduler::Impl::CheckInTime(const QueuedJob& job, const Lane& lane,
                                          const Ahead& before_call, absl::Time now) {
  if (job.job.deadline == absl::InfiniteFuture()) return absl::OkStatus();
  const absl::Duration left = job.job.deadline - now;
  // With those of its own call that run before it, in batches as full as they may be.
  const int64_t cost = lane.queue.CostBefore(job.number) - before_call.cost + job.cost;
  const absl::Duration own =
      cost / options_.max_batch_cost * lane.model.AtLeast(options_.max_batch_cost, now) +
      lane.model.AtLeast(cost % options_.max_batch_cost, now);
  if (own > left) return OwnTimeExceeds(left, own);
  if (before_call.running + kMargin * before_call.queued + own <= left) return absl::OkStatus();
  return RefuseForNow(BehindOthers(left, before_call.all() + own), before_call.all());
}

const Scheduler::Impl::Lane* Scheduler::Impl::FindLane(const Engine* engine) const {
  const auto found = lanes_.find(engine);
  return found == lanes_.end() ? nullptr : &found->second;
}

absl::Duration Scheduler::Impl::RestOfRun(absl::Time now) const {
  if (running_ == 0) return absl::ZeroDuration();
  const absl::Duration run = running_lane_->model.Likely(running_cost_);
  return std::max(run - (now - running_since_), absl::ZeroDuration());
}

Scheduler::Impl::Ahead Scheduler::Impl::AheadOf(const Job& job, const Lane* lane,
                                                absl::Time now) const {
  Ahead ahead = {.running = RestOfRun(now)};
  if (lane == nullptr) return ahead;
  ahead.cost = lane->queue.CostBefore(job);
  ahead.queued = lane->model.Likely(ahead.cost);
  // Other engines' turns cost as much as this one's, if they have so much to do.
  for (const auto& [engine, other] : lanes_) {
    if (&other == lane) continue;
    ahead.queued += other.model.Likely(std::min(ahead.cost, other.queue.cost()));
  }
  return ahead;
}

absl::Status Scheduler::Impl::RefuseForNow(absl::Status status, absl::Duration wait) {
  return WithRetryHint(std::move(status), wait * Spread());
}

double Scheduler::Impl::Spread() {
  constexpr double kGolden = 0.6180339887498949;
  spread_ += kGolden;
  if (spread_ >= 1.0) spread_ -= 1.0;
  return 0.5 + 0.5 * spread_;
}

absl::Status Scheduler::Impl::CheckRoom(const Job& job, size_t jobs) {
  MutexLock lock(&mutex_);
  const absl::Time now = options_.clock->Now();
  THRESHER_RETURN_IF_ERROR(CheckPlaces(jobs, now));
  return CheckWait(job, FindLane(job.engine.get()), now);
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
    Ahead before_call;
    Lane* lane = nullptr;
    uint64_t number = 0;
  };
  std::vector<Place> places;
  places.reserve(batch.size());
  for (const QueuedJob& job : batch) {
    const Lane* const lane = FindLane(job.job.engine.get());
    THRESHER_RETURN_IF_ERROR(CheckWait(job.job, lane, now));
    places.push_back({AheadOf(job.job, lane, now)});
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
    status = CheckInTime(job, *place.lane, place.before_call, now);
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

Scheduler::Impl::Lane* Scheduler::Impl::NextLane(absl::Time now, absl::Time* look_again) {
  *look_again = absl::InfiniteFuture();
  Lane* next = nullptr;
  const auto turn = [](const Lane& lane) {
    return std::pair(lane.served, lane.queue.Oldest().number);
  };
  for (auto& [engine, lane] : lanes_) {
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
                      kMargin * lane.model.Likely(cost + front.cost) > earliest - now;
    if (full && !batch.empty()) break;
    cost += front.cost;
    earliest = std::min(earliest, front.job.deadline);
    batch.push_back(lane.queue.PopFront());
  }
  if (!batch.empty()) {
    virtual_time_ = lane.served;
    lane.served += cost;
    running_lane_ = &lane;
    SetRunning(batch, now);
  }
  return batch;
}

void Scheduler::Impl::SetRunning(std::span<const QueuedJob> jobs, absl::Time now) {
  running_ = static_cast<int32_t>(jobs.size());
  running_cost_ = 0;
  for (const QueuedJob& job : jobs) running_cost_ += job.cost;
  running_since_ = now;
}

// ---- Execution ----

void Scheduler::Impl::RefuseAll() {
  for (auto& [engine, lane] : lanes_) {
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
    cost = running_cost_;
    if (run.status.ok()) running_lane_->model.Add(cost, run.compute, end);
    running_ = 0;
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
  snapshot.running = running_;
  snapshot.pressure = snapshot.queued / static_cast<double>(options_.max_queue);
  for (const auto& [engine, lane] : lanes_) {
    snapshot.pressure = std::max(snapshot.pressure, PressureInTime(lane));
  }
  snapshot.pressure = std::min(snapshot.pressure, 1.0);
  absl::Time oldest = absl::InfiniteFuture();
  for (const auto& [engine, lane] : lanes_) {
    if (lane.queue.empty()) continue;
    snapshot.queued_cost += lane.queue.cost();
    oldest = std::min(oldest, lane.queue.Oldest().arrival);
  }
  if (oldest != absl::InfiniteFuture()) snapshot.oldest_age = options_.clock->Now() - oldest;
  return snapshot;
}

double Scheduler::Impl::PressureInTime(const Lane& lane) const {
  const absl::Duration wait = lane.model.Likely(lane.queue.cost());
  if (options_.max_queue_delay > absl::ZeroDuration()) {
    return absl::FDivDuration(wait, options_.max_queue_delay);
  }
  if (options_.patience <= absl::ZeroDuration()) return 0.0;
  return std::min(absl::FDivDuration(wait, options_.patience),
                  static_cast<double>(lane.queue.calls()) / SchedulerOptions::kAlwaysWait);
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
