// A scheduler on a fake clock over a fake engine.
//
// Each test holds the engine's first run (the plug) while it fills the queue, so that what is
// queued when the next batch is formed does not depend on the threads' speed.
#ifndef THRESHER_TESTS_SCHEDULER_SCHEDULER_FIXTURE_H_
#define THRESHER_TESTS_SCHEDULER_SCHEDULER_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "backend/scheduler/scheduler.h"
#include "tests/scheduler/fake_engine.h"
#include "tests/testing/fake_clock.h"

namespace thresher::testing {

inline constexpr int32_t kPlug = 1000;

class SchedulerTest : public ::testing::Test {
 protected:
  ~SchedulerTest() override { engine_->Open(); }

  std::shared_ptr<FakeEngine> NewEngine(FakeEngine::OnRun on_run = nullptr) {
    return std::make_shared<FakeEngine>(&log_, std::move(on_run));
  }
  void Start() {
    options_.clock = &clock_;
    scheduler_ = std::make_unique<Scheduler>(options_, observer_);
  }
  /// Starts, and occupies the executor until engine_->Open().
  void StartPlugged(int cost = 1) {
    Start();
    engine_->Close();
    ASSERT_TRUE(Submit(Make(kPlug, cost)).ok());
    log_.Await(1);
  }
  Job Make(int32_t tag, int cost) { return answers_.MakeJob(engine_, tag, cost); }
  Job Make(int32_t tag, int cost, absl::Duration timeout, int32_t priority = 0) {
    Job job = Make(tag, cost);
    job.deadline = clock_.Now() + timeout;
    job.priority = priority;
    return job;
  }
  absl::Status Submit(Job job) {
    std::vector<Job> jobs;
    jobs.push_back(std::move(job));
    return scheduler_->Submit(std::move(jobs));
  }
  /// Opens the engine, waits until all is done, and returns the runs after the plug's.
  std::vector<RunLog::Tags> Finish() {
    engine_->Open();
    EXPECT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
    std::vector<RunLog::Tags> runs = log_.runs();
    if (!runs.empty() && runs.front() == RunLog::Tags{kPlug}) runs.erase(runs.begin());
    return runs;
  }
  /// An engine that takes 1 ms for each unit of cost, which the scheduler has learned.
  void StartTaught() {
    engine_ = NewEngine([this](const RunLog::Tags&, int64_t cost) {
      clock_.Advance(cost * absl::Milliseconds(1));
      return absl::OkStatus();
    });
    Start();
    for (int i = 1; i <= 10; ++i) {
      ASSERT_TRUE(Submit(Make(-i, 10 * i)).ok());
      ASSERT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
    }
    taught_runs_ = log_.runs().size();
  }
  /// As StartTaught, and a batch of cost 20 has just begun.
  void StartTaughtAndPlugged() {
    StartTaught();
    engine_->Close();
    ASSERT_TRUE(Submit(Make(kPlug, 20)).ok());
    log_.Await(taught_runs_ + 1);
  }
  std::vector<RunLog::Tags> FinishTaught() {
    engine_->Open();
    EXPECT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
    std::vector<RunLog::Tags> runs = log_.runs();
    runs.erase(runs.begin(), runs.begin() + static_cast<std::ptrdiff_t>(taught_runs_ + 1));
    return runs;
  }

  FakeClock clock_;
  RunLog log_;
  Answers answers_;
  std::shared_ptr<FakeEngine> engine_ = NewEngine();
  SchedulerOptions options_;
  SchedulerObserver* observer_ = nullptr;
  size_t taught_runs_ = 0;
  std::unique_ptr<Scheduler> scheduler_;  // Last: gone before all that it uses.
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_SCHEDULER_SCHEDULER_FIXTURE_H_
