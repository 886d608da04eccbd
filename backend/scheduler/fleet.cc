#include "backend/scheduler/fleet.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "backend/scheduler/clock.h"
#include "backend/tensor/mutex.h"

namespace thresher {
namespace {

/// The clock of one device's scheduler. Its executor thread runs only when the fleet has woken it,
/// and the fleet goes on only when the executor waits again: one thread runs at a time, and nothing
/// depends on how fast.
class DeviceClock final : public Clock {
 public:
  absl::Time Now() override {
    MutexLock lock(&mutex_);
    return now_;
  }

  /// Signals are not heeded: the fleet wakes the executor after whatever it did to its scheduler.
  void WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) override {
    mutex->Unlock();
    Block(deadline);
    mutex->Lock();
  }

  void SleepUntil(absl::Time time) {
    while (Now() < time && !released()) Block(time);
  }

  // ---- By the fleet ----

  /// When the executor wants to look again; infinite: not before something happens.
  absl::Time next() {
    MutexLock lock(&mutex_);
    return deadline_;
  }
  /// Lets the executor run at `now` until it waits again.
  void Wake(absl::Time now) {
    MutexLock lock(&mutex_);
    while (!blocked_) changed_.Wait(&mutex_);  // Before its first look it is not there yet.
    now_ = now;
    blocked_ = false;
    changed_.SignalAll();
    while (!blocked_ && !released_) changed_.Wait(&mutex_);
  }
  /// From now on nobody waits: the scheduler is coming down.
  void Release() {
    MutexLock lock(&mutex_);
    released_ = true;
    changed_.SignalAll();
  }

 private:
  bool released() {
    MutexLock lock(&mutex_);
    return released_;
  }
  void Block(absl::Time deadline) {
    MutexLock lock(&mutex_);
    if (released_) return;
    deadline_ = deadline;
    blocked_ = true;
    changed_.SignalAll();
    while (blocked_ && !released_) changed_.Wait(&mutex_);
  }

  Mutex mutex_;
  CondVar changed_;
  absl::Time now_ = absl::UnixEpoch();
  absl::Time deadline_ = absl::InfiniteFuture();
  bool blocked_ = false;
  bool released_ = false;
};

/// Takes the time that it is told, and computes nothing.
class TimedEngine final : public Engine {
 public:
  TimedEngine(const FleetOptions& options, DeviceClock& clock) : options_(options), clock_(clock) {}

  absl::Status Validate(const Sequence&) const override { return absl::OkStatus(); }
  int64_t Cost(const Sequence& sequence) const override {
    return static_cast<int64_t>(sequence.ids.size());
  }
  absl::Status Run(std::span<const Sequence* const> sequences, std::span<SequenceOutput>) override {
    lengths_.clear();
    for (const Sequence* sequence : sequences) {
      lengths_.push_back(static_cast<int32_t>(sequence->ids.size()));
    }
    const absl::Duration service = options_.service(lengths_);
    busy_ += service;
    clock_.SleepUntil(clock_.Now() + service);
    return absl::OkStatus();
  }
  absl::Duration busy() const { return busy_; }

 private:
  const FleetOptions& options_;
  DeviceClock& clock_;
  std::vector<int32_t> lengths_;
  absl::Duration busy_;
};

struct Replica {
  explicit Replica(const FleetOptions& options)
      : engine(std::make_shared<TimedEngine>(options, clock)) {
    SchedulerOptions own = options.scheduler;
    own.clock = &clock;
    scheduler = std::make_unique<Scheduler>(own, nullptr);
  }
  ~Replica() {
    clock.Release();
    scheduler.reset();
  }

  DeviceClock clock;
  std::shared_ptr<TimedEngine> engine;
  std::unique_ptr<Scheduler> scheduler;
  int64_t outstanding = 0;  // Tokens accepted and not answered.
};

class Fleet {
 public:
  explicit Fleet(const FleetOptions& options) : options_(options) {
    for (int32_t i = 0; i < options.devices; ++i) {
      replicas_.push_back(std::make_unique<Replica>(options));
      replicas_.back()->clock.Wake(now_);
    }
  }

  FleetResult Run(std::span<const FleetRequest> requests) {
    FleetResult result;
    result.outcomes.reserve(requests.size());  // Answers write to it where it is.
    constexpr size_t kLook = 1024;
    for (size_t i = 0; i < requests.size(); ++i) {
      if (i % kLook == 0 && options_.progress && !options_.progress(static_cast<int64_t>(i))) break;
      AdvanceTo(begin_ + requests[i].arrival);
      result.outcomes.emplace_back();
      Submit(requests[i], &result.outcomes.back());
    }
    AdvanceTo(absl::InfiniteFuture());
    result.end = now_ - begin_;
    for (const auto& replica : replicas_) result.busy.push_back(replica->engine->busy());
    return result;
  }

 private:
  /// Lets the devices do all that they do before `time`, in order of time, and then sets the clock.
  void AdvanceTo(absl::Time time) {
    while (true) {
      const auto next = std::ranges::min_element(
          replicas_, {}, [](const auto& replica) { return replica->clock.next(); });
      const absl::Time at = (*next)->clock.next();
      if (at == absl::InfiniteFuture() || at > time) break;
      now_ = std::max(now_, at);
      (*next)->clock.Wake(now_);
    }
    if (time != absl::InfiniteFuture()) now_ = time;
  }

  void Submit(const FleetRequest& request, FleetOutcome* outcome) {
    const auto least = std::ranges::min_element(
        replicas_, {}, [](const auto& replica) { return replica->outstanding; });
    Replica& replica = **least;
    outcome->device = static_cast<int32_t>(least - replicas_.begin());
    // The scheduler reads its clock: at the arrival's time it has nothing else to do.
    replica.clock.Wake(now_);
    const absl::Time arrival = now_;
    replica.outstanding += request.tokens;
    std::vector<Job> jobs(1);
    Job& job = jobs.front();
    job.engine = replica.engine;
    job.sequence.ids.resize(static_cast<size_t>(request.tokens));
    job.deadline = arrival + request.deadline;
    job.done = [&replica, outcome, arrival,
                tokens = request.tokens](absl::StatusOr<JobResult> answer) {
      replica.outstanding -= tokens;
      outcome->status = answer.status().code();
      outcome->total = replica.clock.Now() - arrival;
      if (!answer.ok()) return;
      outcome->queue = answer->queue;
      outcome->batch_sequences = answer->batch_sequences;
    };
    if (const absl::Status taken = replica.scheduler->Submit(std::move(jobs)); !taken.ok()) {
      replica.outstanding -= request.tokens;
      outcome->status = taken.code();
    }
    replica.clock.Wake(now_);
  }

  const FleetOptions& options_;
  const absl::Time begin_ = absl::UnixEpoch();
  absl::Time now_ = begin_;
  std::vector<std::unique_ptr<Replica>> replicas_;
};

}  // namespace

FleetResult RunFleet(std::span<const FleetRequest> requests, const FleetOptions& options) {
  return Fleet(options).Run(requests);
}

}  // namespace thresher
