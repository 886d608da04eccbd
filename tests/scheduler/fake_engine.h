// An engine whose runs a test can hold, watch, fail and time; and a record of the answers.
#ifndef THRESHER_TESTS_SCHEDULER_FAKE_ENGINE_H_
#define THRESHER_TESTS_SCHEDULER_FAKE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "backend/engine/engine.h"
#include "backend/scheduler/scheduler.h"
#include "backend/tensor/mutex.h"

namespace thresher::testing {

/// Every run of one or several engines in order, each as the tags (first ids) of its sequences.
class RunLog {
 public:
  using Tags = std::vector<int32_t>;

  void Add(Tags tags) {
    MutexLock lock(&mutex_);
    runs_.push_back(std::move(tags));
    changed_.SignalAll();
  }
  std::vector<Tags> runs() {
    MutexLock lock(&mutex_);
    return runs_;
  }
  /// Blocks until this many runs have begun.
  void Await(size_t count) {
    MutexLock lock(&mutex_);
    while (runs_.size() < count) changed_.Wait(&mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<Tags> runs_;
};

/// The cost of a sequence is its length. Runs are logged, then wait while the engine is closed,
/// then call `on_run`; each output's only logit is its sequence's tag.
class FakeEngine final : public Engine {
 public:
  using OnRun = std::function<absl::Status(const RunLog::Tags& tags, int64_t cost)>;

  explicit FakeEngine(RunLog* log, OnRun on_run = nullptr)
      : log_(log), on_run_(std::move(on_run)) {}

  void Close() { SetOpen(false); }
  void Open() { SetOpen(true); }

  absl::Status Validate(const Sequence& sequence) const override { return absl::OkStatus(); }
  int64_t Cost(const Sequence& sequence) const override {
    return static_cast<int64_t>(sequence.ids.size());
  }
  absl::Status Run(std::span<const Sequence* const> sequences,
                   std::span<SequenceOutput> outputs) override {
    RunLog::Tags tags;
    int64_t cost = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      tags.push_back(sequences[i]->ids.front());
      cost += Cost(*sequences[i]);
      outputs[i].logits = {static_cast<float>(tags.back())};
    }
    log_->Add(tags);
    {
      MutexLock lock(&mutex_);
      while (!open_) opened_.Wait(&mutex_);
    }
    return on_run_ ? on_run_(tags, cost) : absl::OkStatus();
  }

 private:
  void SetOpen(bool open) {
    MutexLock lock(&mutex_);
    open_ = open;
    opened_.SignalAll();
  }

  RunLog* const log_;
  const OnRun on_run_;
  Mutex mutex_;
  CondVar opened_;
  bool open_ = true;
};

/// What jobs ended with, by tag.
class Answers {
 public:
  /// A job of this cost whose answer is recorded here.
  Job MakeJob(std::shared_ptr<Engine> engine, int32_t tag, int cost) {
    Job job;
    job.engine = std::move(engine);
    job.sequence.ids.assign(cost, tag);
    job.done = [this, tag](absl::StatusOr<JobResult> result) {
      MutexLock lock(&mutex_);
      order_.push_back(tag);
      results_.emplace(tag, std::move(result));
    };
    return job;
  }
  /// Tags in the order of their answers; one that was answered twice is here twice.
  std::vector<int32_t> order() {
    MutexLock lock(&mutex_);
    return order_;
  }
  absl::StatusOr<JobResult> of(int32_t tag) {
    MutexLock lock(&mutex_);
    const auto found = results_.find(tag);
    return found == results_.end() ? absl::NotFoundError("not answered") : found->second;
  }
  absl::StatusCode code(int32_t tag) { return of(tag).status().code(); }

 private:
  Mutex mutex_;
  std::vector<int32_t> order_;
  std::map<int32_t, absl::StatusOr<JobResult>> results_;
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_SCHEDULER_FAKE_ENGINE_H_
