// Each test holds the engine's first run (the plug) while it fills the queue, so that what is
// queued when the next batch is formed does not depend on the threads' speed.
#include "backend/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>

#include "tests/scheduler/fake_engine.h"
#include "tests/testing/fake_clock.h"

namespace thresher {
namespace {

using testing::Answers;
using ::testing::ElementsAre;
using testing::FakeClock;
using testing::FakeEngine;
using ::testing::HasSubstr;
using testing::RunLog;
using Code = absl::StatusCode;

constexpr int32_t kPlug = 1000;

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

// ---- Batches ----

TEST_F(SchedulerTest, AnswersWithTheOutputTheTimesAndTheBatch) {
  engine_ = NewEngine([this](const RunLog::Tags& tags, int64_t) {
    clock_.Advance(absl::Milliseconds(tags.front() == kPlug ? 5 : 7));
    return absl::OkStatus();
  });
  StartPlugged();
  ASSERT_TRUE(Submit(Make(1, 3)).ok());
  ASSERT_TRUE(Submit(Make(2, 4)).ok());
  Finish();
  const absl::StatusOr<JobResult> result = answers_.of(2);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->output.logits, ElementsAre(2.0f));
  EXPECT_EQ(result->queue, absl::Milliseconds(5));
  EXPECT_EQ(result->compute, absl::Milliseconds(7));
  EXPECT_EQ(result->batch_sequences, 2);
  EXPECT_EQ(result->batch_tokens, 7);
}

TEST_F(SchedulerTest, TakesWhatIsThereWithoutWaitingForMore) {
  Start();
  ASSERT_TRUE(Submit(Make(1, 1)).ok());
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1)));  // The clock has not moved.
}

TEST_F(SchedulerTest, FillsBatchesInOrderUpToTheBudget) {
  options_.max_batch_cost = 10;
  StartPlugged();
  for (const auto& [tag, cost] :
       std::vector<std::pair<int, int>>{{1, 6}, {2, 4}, {3, 7}, {4, 5}, {5, 2}}) {
    ASSERT_TRUE(Submit(Make(tag, cost)).ok());
  }
  // 4 does not fit beside 3, and 5, which would, does not overtake it.
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1, 2), ElementsAre(3), ElementsAre(4, 5)));
}

TEST_F(SchedulerTest, RunsAJobAboveTheBudgetAlone) {
  options_.max_batch_cost = 10;
  StartPlugged();
  for (const auto& [tag, cost] : std::vector<std::pair<int, int>>{{1, 1}, {2, 25}, {3, 1}}) {
    ASSERT_TRUE(Submit(Make(tag, cost)).ok());
  }
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1), ElementsAre(2), ElementsAre(3)));
}

TEST_F(SchedulerTest, LimitsTheSequencesOfABatch) {
  options_.max_batch_sequences = 2;
  StartPlugged();
  for (int tag = 1; tag <= 5; ++tag) ASSERT_TRUE(Submit(Make(tag, 1)).ok());
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1, 2), ElementsAre(3, 4), ElementsAre(5)));
}

TEST_F(SchedulerTest, RunsByPriorityThenDeadlineThenArrival) {
  StartPlugged();
  ASSERT_TRUE(Submit(Make(1, 1)).ok());
  ASSERT_TRUE(Submit(Make(2, 1, absl::Seconds(20))).ok());
  ASSERT_TRUE(Submit(Make(3, 1, absl::Seconds(10))).ok());
  ASSERT_TRUE(Submit(Make(4, 1)).ok());
  ASSERT_TRUE(Submit(Make(5, 1, absl::InfiniteDuration(), 1)).ok());
  ASSERT_TRUE(Submit(Make(6, 1, absl::Seconds(1), -1)).ok());
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(5, 3, 2, 1, 4, 6)));
}

// ---- max_batch_delay ----

TEST_F(SchedulerTest, DelayWaitsForMoreFromTheOldestArrival) {
  options_.max_batch_delay = absl::Milliseconds(10);
  Start();
  const absl::Time start = clock_.Now();
  ASSERT_TRUE(Submit(Make(1, 1)).ok());
  clock_.AwaitWaiter(start + absl::Milliseconds(10));
  clock_.Advance(absl::Milliseconds(9));
  ASSERT_TRUE(Submit(Make(2, 1)).ok());
  clock_.AwaitWaiter(start + absl::Milliseconds(10));
  EXPECT_TRUE(log_.runs().empty());
  clock_.Advance(absl::Milliseconds(1));
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1, 2)));
}

TEST_F(SchedulerTest, DelayEndsWhenTheBatchIsFull) {
  options_.max_batch_delay = absl::Seconds(10);
  options_.max_batch_cost = 10;
  Start();
  ASSERT_TRUE(Submit(Make(1, 5)).ok());
  clock_.AwaitWaiter(clock_.Now() + absl::Seconds(10));
  ASSERT_TRUE(Submit(Make(2, 5)).ok());
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1, 2)));
}

TEST_F(SchedulerTest, DelayLeavesTimeForADeadline) {
  options_.max_batch_delay = absl::Milliseconds(10);
  Start();
  const absl::Time start = clock_.Now();
  ASSERT_TRUE(Submit(Make(1, 1, absl::Milliseconds(14))).ok());
  clock_.AwaitWaiter(start + absl::Milliseconds(4));
  clock_.Advance(absl::Milliseconds(4));
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1)));
  ASSERT_TRUE(Submit(Make(2, 1, absl::Milliseconds(9))).ok());
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1), ElementsAre(2)));
}

TEST_F(SchedulerTest, DelayEndsWhenNoMoreMayCome) {
  options_.max_batch_delay = absl::Seconds(10);
  Start();
  ASSERT_TRUE(Submit(Make(1, 1)).ok());
  scheduler_->StopAccepting();
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1)));
}

// ---- Admission ----

TEST_F(SchedulerTest, RefusesAtOnceWhatTheQueueHasNoRoomFor) {
  options_.max_queue = 3;
  StartPlugged();
  ASSERT_TRUE(Submit(Make(1, 1)).ok());
  ASSERT_TRUE(Submit(Make(2, 1)).ok());
  std::vector<Job> two;
  two.push_back(Make(3, 1));
  two.push_back(Make(4, 1));
  const absl::Status all_or_none = scheduler_->Submit(std::move(two));
  EXPECT_EQ(all_or_none.code(), Code::kResourceExhausted);
  EXPECT_THAT(std::string(all_or_none.message()), HasSubstr("2 of 3 places are taken"));
  ASSERT_TRUE(Submit(Make(5, 1)).ok());
  EXPECT_EQ(Submit(Make(6, 1)).code(), Code::kResourceExhausted);
  EXPECT_EQ(scheduler_->snapshot().queued, 3);
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1, 2, 5)));
  EXPECT_THAT(answers_.order(), ElementsAre(kPlug, 1, 2, 5));
}

TEST_F(SchedulerTest, SaysThatACallIsLargerThanTheQueue) {
  options_.max_queue = 1;
  Start();
  std::vector<Job> two;
  two.push_back(Make(1, 1));
  two.push_back(Make(2, 1));
  const absl::Status status = scheduler_->Submit(std::move(two));
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("send fewer"));
}

TEST_F(SchedulerTest, TakesNoJobsAsDone) {
  Start();
  EXPECT_TRUE(scheduler_->Submit({}).ok());
  EXPECT_TRUE(scheduler_->WaitIdle(clock_.Now()));
}

TEST_F(SchedulerTest, RefusesAPassedDeadlineAndWithItTheWholeCall) {
  StartPlugged();
  std::vector<Job> two;
  two.push_back(Make(1, 1));
  two.push_back(Make(2, 1, absl::ZeroDuration()));
  EXPECT_EQ(scheduler_->Submit(std::move(two)).code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(Finish().empty());
  EXPECT_THAT(answers_.order(), ElementsAre(kPlug));
}

TEST_F(SchedulerTest, DeadlineThatPassesInTheQueueIsNotComputed) {
  StartPlugged();
  ASSERT_TRUE(Submit(Make(1, 1, absl::Milliseconds(10))).ok());
  ASSERT_TRUE(Submit(Make(2, 1, absl::Milliseconds(20), -1)).ok());
  ASSERT_TRUE(Submit(Make(3, 1, absl::Milliseconds(21))).ok());
  clock_.Advance(absl::Milliseconds(20));
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(3)));
  EXPECT_EQ(answers_.code(1), Code::kDeadlineExceeded);
  EXPECT_EQ(answers_.code(2), Code::kDeadlineExceeded);
  EXPECT_EQ(answers_.code(3), Code::kOk);
}

// A queue full of expired jobs is still full (they are in memory until the executor tells them),
// but they no longer count as work.
TEST_F(SchedulerTest, ExpiredJobsKeepTheirPlaceButNotTheirCost) {
  options_.max_queue = 2;
  StartPlugged();
  ASSERT_TRUE(Submit(Make(1, 5, absl::Milliseconds(10))).ok());
  ASSERT_TRUE(Submit(Make(2, 7)).ok());
  clock_.Advance(absl::Milliseconds(10));
  EXPECT_EQ(Submit(Make(3, 1)).code(), Code::kResourceExhausted);
  EXPECT_EQ(scheduler_->snapshot().queued, 2);
  EXPECT_EQ(scheduler_->snapshot().queued_cost, 7);
  Finish();
  EXPECT_EQ(answers_.code(1), Code::kDeadlineExceeded);
}

TEST_F(SchedulerTest, CancelledJobIsDroppedBeforeCompute) {
  StartPlugged();
  const auto cancelled = std::make_shared<std::atomic<bool>>(false);
  Job job = Make(1, 1);
  job.cancelled = cancelled;
  ASSERT_TRUE(Submit(std::move(job)).ok());
  ASSERT_TRUE(Submit(Make(2, 1)).ok());
  cancelled->store(true);
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(2)));
  EXPECT_EQ(answers_.code(1), Code::kCancelled);
}

// ---- Prediction: 1 ms for each unit of cost ----

TEST_F(SchedulerTest, PredictsNothingFromTooFewBatches) {
  StartPlugged(1000);
  EXPECT_TRUE(Submit(Make(1, 1000, absl::Nanoseconds(1))).ok());
}

TEST_F(SchedulerTest, RefusesADeadlineThatTheJobAloneWouldMiss) {
  StartTaught();
  const absl::Status status = Submit(Make(1, 50, absl::Milliseconds(49)));
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the deadline is 49ms away"));
  EXPECT_TRUE(Submit(Make(2, 50, absl::Milliseconds(51))).ok());
  ASSERT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  EXPECT_EQ(answers_.code(1), Code::kNotFound);
  EXPECT_EQ(answers_.code(2), Code::kOk);
}

TEST_F(SchedulerTest, PredictionCountsTheRunningBatchAndWhatGoesBefore) {
  StartTaughtAndPlugged();  // 20 ms are left of the running batch.
  ASSERT_TRUE(Submit(Make(1, 30, absl::Seconds(1))).ok());
  ASSERT_TRUE(Submit(Make(2, 500)).ok());  // Without a deadline: behind all that have one.
  EXPECT_EQ(Submit(Make(3, 10, absl::Milliseconds(29))).code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(Submit(Make(4, 10, absl::Milliseconds(31))).ok());  // Before 1.
  EXPECT_EQ(Submit(Make(5, 10, absl::Milliseconds(69), -1)).code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(Submit(Make(6, 10, absl::Milliseconds(31 + 10), 1)).ok());  // Before 4.
}

TEST_F(SchedulerTest, PredictionCountsWhatHasAlreadyRunOfTheBatch) {
  StartTaughtAndPlugged();
  clock_.Advance(absl::Milliseconds(15));
  EXPECT_EQ(Submit(Make(1, 10, absl::Milliseconds(14))).code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(Submit(Make(2, 10, absl::Milliseconds(16))).ok());
  clock_.Advance(absl::Milliseconds(50));  // Far longer than predicted: any moment now.
  EXPECT_TRUE(Submit(Make(3, 10, absl::Milliseconds(11))).ok());
}

TEST_F(SchedulerTest, JobsOfOneCallDelayEachOther) {
  StartTaughtAndPlugged();
  const auto both = [&](absl::Duration timeout) {
    std::vector<Job> jobs;
    jobs.push_back(Make(1, 10, timeout));
    jobs.push_back(Make(2, 10, timeout));
    return scheduler_->Submit(std::move(jobs));
  };
  EXPECT_EQ(both(absl::Milliseconds(39)).code(), Code::kDeadlineExceeded);
  EXPECT_EQ(scheduler_->snapshot().queued, 0);  // None was taken.
  EXPECT_EQ(scheduler_->snapshot().queued_cost, 0);
  EXPECT_TRUE(both(absl::Milliseconds(41)).ok());
  EXPECT_THAT(FinishTaught(), ElementsAre(ElementsAre(1, 2)));
}

TEST_F(SchedulerTest, DropsAtBatchFormationWhatCanNoLongerBeInTime) {
  StartTaughtAndPlugged();
  ASSERT_TRUE(Submit(Make(1, 10, absl::Milliseconds(35))).ok());
  ASSERT_TRUE(Submit(Make(2, 2, absl::Milliseconds(36))).ok());
  clock_.Advance(absl::Milliseconds(10));  // The plug takes 30 ms in all: 5 and 6 are left.
  EXPECT_THAT(FinishTaught(), ElementsAre(ElementsAre(2)));
  EXPECT_EQ(answers_.code(1), Code::kDeadlineExceeded);
  EXPECT_EQ(answers_.code(2), Code::kOk);
}

TEST_F(SchedulerTest, ASpellOfSlownessDoesNotRefuseForEver) {
  StartTaught();
  EXPECT_EQ(Submit(Make(1, 50, absl::Milliseconds(5))).code(), Code::kDeadlineExceeded);
  clock_.Advance(absl::Seconds(11));
  EXPECT_TRUE(Submit(Make(2, 50, absl::Milliseconds(5))).ok());
}

// ---- Fairness ----

TEST_F(SchedulerTest, AFloodDelaysAnotherEngineByOneBatch) {
  options_.max_batch_cost = 10;
  const auto other = NewEngine();
  StartPlugged(10);
  for (int tag = 1; tag <= 4; ++tag) ASSERT_TRUE(Submit(Make(tag, 10)).ok());
  ASSERT_TRUE(Submit(answers_.MakeJob(other, 50, 10)).ok());
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(50), ElementsAre(1), ElementsAre(2), ElementsAre(3),
                                    ElementsAre(4)));
}

TEST_F(SchedulerTest, EnginesTakeTurnsByCostServed) {
  options_.max_batch_sequences = 1;
  const auto other = NewEngine();
  StartPlugged(20);
  for (int tag = 1; tag <= 3; ++tag) ASSERT_TRUE(Submit(Make(tag, 20)).ok());
  for (int tag = 51; tag <= 56; ++tag) ASSERT_TRUE(Submit(answers_.MakeJob(other, tag, 10)).ok());
  // Two of cost 10 for each of cost 20; at equal cost served, the oldest job goes first.
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(51), ElementsAre(52), ElementsAre(1),
                                    ElementsAre(53), ElementsAre(54), ElementsAre(2),
                                    ElementsAre(55), ElementsAre(56), ElementsAre(3)));
}

TEST_F(SchedulerTest, IdlenessEarnsNoCredit) {
  options_.max_batch_cost = 10;
  const auto other = NewEngine();
  Start();
  for (int tag = 101; tag <= 105; ++tag) {  // Only this engine is served for a while.
    ASSERT_TRUE(Submit(Make(tag, 10)).ok());
    ASSERT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  }
  engine_->Close();
  ASSERT_TRUE(Submit(Make(kPlug, 10)).ok());
  log_.Await(6);
  for (int tag = 1; tag <= 3; ++tag) {
    ASSERT_TRUE(Submit(Make(tag, 10)).ok());
    ASSERT_TRUE(Submit(answers_.MakeJob(other, 50 + tag, 10)).ok());
  }
  std::vector<RunLog::Tags> runs = Finish();
  runs.erase(runs.begin(), runs.begin() + 6);
  EXPECT_THAT(runs, ElementsAre(ElementsAre(51), ElementsAre(1), ElementsAre(52), ElementsAre(2),
                                ElementsAre(53), ElementsAre(3)));
}

TEST_F(SchedulerTest, AnEngineMayBeHeldByANonOwningPointer) {
  options_.max_batch_cost = 10;
  FakeEngine local(&log_);
  StartPlugged(10);
  for (int tag = 1; tag <= 3; ++tag) {
    Job job = Make(tag, 10);
    job.engine = std::shared_ptr<Engine>(std::shared_ptr<void>(), &local);
    ASSERT_TRUE(Submit(std::move(job)).ok());
    ASSERT_TRUE(Submit(answers_.MakeJob(NewEngine(), 50 + tag, 10)).ok());  // A new lane each.
  }
  EXPECT_EQ(Finish().size(), 6u);
}

// ---- Failure ----

TEST_F(SchedulerTest, OneBadSequenceDoesNotFailItsNeighbours) {
  engine_ = NewEngine([](const RunLog::Tags& tags, int64_t) {
    for (const int32_t tag : tags) {
      if (tag == 2) return absl::DataLossError("two is bad");
    }
    return absl::OkStatus();
  });
  StartPlugged();
  for (int tag = 1; tag <= 3; ++tag) ASSERT_TRUE(Submit(Make(tag, 1)).ok());
  EXPECT_THAT(Finish(),
              ElementsAre(ElementsAre(1, 2, 3), ElementsAre(1), ElementsAre(2), ElementsAre(3)));
  EXPECT_EQ(answers_.code(1), Code::kOk);
  EXPECT_EQ(answers_.code(2), Code::kDataLoss);
  EXPECT_EQ(answers_.code(3), Code::kOk);
  EXPECT_EQ(answers_.of(3)->batch_sequences, 1);
}

TEST_F(SchedulerTest, CancellationAndDeadlineCountBeforeASecondRun) {
  const auto cancelled = std::make_shared<std::atomic<bool>>(false);
  engine_ = NewEngine([&](const RunLog::Tags& tags, int64_t) {
    if (tags.size() == 1) return absl::OkStatus();
    cancelled->store(true);
    clock_.Advance(absl::Seconds(1));
    return absl::InternalError("too many at once");
  });
  StartPlugged();
  Job job = Make(1, 1);
  job.cancelled = cancelled;
  ASSERT_TRUE(Submit(std::move(job)).ok());
  ASSERT_TRUE(Submit(Make(2, 1, absl::Milliseconds(10))).ok());
  ASSERT_TRUE(Submit(Make(3, 1)).ok());
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(2, 1, 3), ElementsAre(3)));
  EXPECT_EQ(answers_.code(1), Code::kCancelled);
  EXPECT_EQ(answers_.code(2), Code::kDeadlineExceeded);
  EXPECT_EQ(answers_.code(3), Code::kOk);
}

TEST_F(SchedulerTest, AnExceptionOfTheEngineIsInternal) {
  engine_ = NewEngine([](const RunLog::Tags& tags, int64_t) -> absl::Status {
    if (tags.front() == 1) throw std::runtime_error("out of primitives");
    if (tags.front() == 2) throw 2;
    return absl::OkStatus();
  });
  Start();
  for (int tag = 1; tag <= 3; ++tag) {
    ASSERT_TRUE(Submit(Make(tag, 1)).ok());
    ASSERT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  }
  EXPECT_EQ(answers_.code(1), Code::kInternal);
  EXPECT_THAT(std::string(answers_.of(1).status().message()), HasSubstr("out of primitives"));
  EXPECT_EQ(answers_.code(2), Code::kInternal);
  EXPECT_EQ(answers_.code(3), Code::kOk);
}

// Fails the sequence with tag 2 through its own output's status.
class PickyEngine final : public Engine {
 public:
  absl::Status Validate(const Sequence&) const override { return absl::OkStatus(); }
  int64_t Cost(const Sequence&) const override { return 0; }  // Counted as 1.
  absl::Status Run(std::span<const Sequence* const> sequences,
                   std::span<SequenceOutput> outputs) override {
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (sequences[i]->ids.front() == 2) outputs[i].status = absl::InternalError("overflow");
    }
    return absl::OkStatus();
  }
};

TEST_F(SchedulerTest, AStatusOfOneSequenceIsThatSequencesAlone) {
  const auto picky = std::make_shared<PickyEngine>();
  Start();
  std::vector<Job> jobs;
  for (int tag = 1; tag <= 3; ++tag) jobs.push_back(answers_.MakeJob(picky, tag, 1));
  ASSERT_TRUE(scheduler_->Submit(std::move(jobs)).ok());
  Finish();
  EXPECT_EQ(answers_.code(1), Code::kOk);
  EXPECT_EQ(answers_.code(2), Code::kInternal);
  EXPECT_EQ(answers_.code(3), Code::kOk);
}

// ---- Life ----

TEST_F(SchedulerTest, SnapshotTellsQueueAgeAndRunning) {
  StartPlugged();
  ASSERT_TRUE(Submit(Make(1, 5)).ok());
  clock_.Advance(absl::Seconds(3));
  ASSERT_TRUE(Submit(Make(2, 6)).ok());
  clock_.Advance(absl::Seconds(1));
  const Scheduler::Snapshot snapshot = scheduler_->snapshot();
  EXPECT_EQ(snapshot.queued, 2);
  EXPECT_EQ(snapshot.queued_cost, 11);
  EXPECT_EQ(snapshot.oldest_age, absl::Seconds(4));
  EXPECT_EQ(snapshot.running, 1);
  Finish();
  const Scheduler::Snapshot after = scheduler_->snapshot();
  EXPECT_EQ(after.queued, 0);
  EXPECT_EQ(after.queued_cost, 0);
  EXPECT_EQ(after.oldest_age, absl::ZeroDuration());
  EXPECT_EQ(after.running, 0);
}

class CountingObserver final : public SchedulerObserver {
 public:
  void OnBatch(const Engine& engine, int32_t sequences, int64_t tokens, int64_t cost,
               absl::Duration compute) override {
    lines.push_back({sequences, tokens, cost, absl::ToInt64Milliseconds(compute)});
  }
  std::vector<std::vector<int64_t>> lines;
};

TEST_F(SchedulerTest, ObserverSeesEveryRun) {
  CountingObserver observer;
  observer_ = &observer;
  engine_ = NewEngine([this](const RunLog::Tags& tags, int64_t) {
    clock_.Advance(absl::Milliseconds(9));
    return tags.size() > 1 ? absl::InternalError("") : absl::OkStatus();
  });
  StartPlugged(4);
  ASSERT_TRUE(Submit(Make(1, 2)).ok());
  ASSERT_TRUE(Submit(Make(2, 3)).ok());
  Finish();
  EXPECT_THAT(observer.lines, ElementsAre(ElementsAre(1, 4, 4, 9), ElementsAre(2, 5, 5, 9),
                                          ElementsAre(1, 2, 2, 9), ElementsAre(1, 3, 3, 9)));
}

TEST_F(SchedulerTest, DrainFinishesWhatWasAcceptedAndRefusesTheRest) {
  StartPlugged();
  ASSERT_TRUE(Submit(Make(1, 1)).ok());
  scheduler_->StopAccepting();
  EXPECT_EQ(Submit(Make(2, 1)).code(), Code::kUnavailable);
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1)));
  EXPECT_EQ(answers_.code(1), Code::kOk);
}

TEST_F(SchedulerTest, WaitIdleGivesUpAtItsDeadline) {
  StartPlugged();
  const absl::Time deadline = clock_.Now() + absl::Seconds(30);
  bool idle = true;
  std::thread waiter([&] { idle = scheduler_->WaitIdle(deadline); });
  clock_.AwaitWaiter(deadline);
  clock_.Advance(absl::Seconds(30));
  waiter.join();
  EXPECT_FALSE(idle);
  Finish();
  EXPECT_TRUE(scheduler_->WaitIdle(clock_.Now()));
}

TEST_F(SchedulerTest, DestructorRefusesWhatWaits) {
  options_.max_batch_delay = absl::Seconds(10);  // Keeps the jobs waiting.
  Start();
  ASSERT_TRUE(Submit(Make(1, 1)).ok());
  ASSERT_TRUE(Submit(Make(2, 1)).ok());
  scheduler_.reset();
  EXPECT_EQ(answers_.code(1), Code::kUnavailable);
  EXPECT_EQ(answers_.code(2), Code::kUnavailable);
  EXPECT_TRUE(log_.runs().empty());
}

TEST_F(SchedulerTest, DestructorFinishesTheRunningBatch) {
  StartPlugged();
  std::thread destroyer([this] { scheduler_.reset(); });
  engine_->Open();
  destroyer.join();
  EXPECT_EQ(answers_.code(kPlug), Code::kOk);
}

TEST_F(SchedulerTest, DoneMaySubmitAgain) {
  Start();
  Job first = Make(1, 1);
  first.done = [this](absl::StatusOr<JobResult> result) {
    EXPECT_TRUE(result.ok());
    EXPECT_EQ(scheduler_->snapshot().running, 0);  // And no lock is held.
    EXPECT_TRUE(Submit(Make(2, 1)).ok());
  };
  ASSERT_TRUE(Submit(std::move(first)).ok());
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1), ElementsAre(2)));
}

TEST_F(SchedulerTest, EngineLivesUntilItsAnswerIsGivenAndNoLonger) {
  Start();
  std::shared_ptr<FakeEngine> engine = NewEngine();
  const std::weak_ptr<FakeEngine> watch = engine;
  Job job = answers_.MakeJob(engine, 1, 1);
  job.done = [&](absl::StatusOr<JobResult>) { EXPECT_FALSE(watch.expired()); };
  engine.reset();
  ASSERT_TRUE(Submit(std::move(job)).ok());
  Finish();
  EXPECT_TRUE(watch.expired());
}

}  // namespace
}  // namespace thresher
