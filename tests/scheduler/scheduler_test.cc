// Batches, turns, failures and the scheduler's life.
#include "backend/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "tests/scheduler/scheduler_fixture.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using testing::FakeEngine;
using ::testing::HasSubstr;
using testing::kPlug;
using testing::RunLog;
using testing::SchedulerTest;
using Code = absl::StatusCode;

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

/// Takes a step whenever it may, until it has taken `most`.
class Stepper final : public StepSource {
 public:
  Stepper(int64_t cost, int most) : cost_(cost), most_(most) {}
  Outcome Step() override {
    const int taken = ++taken_;
    return {.cost = cost_, .more = taken < most_};
  }
  void Shutdown() override { shut_down_ = true; }
  int taken() const { return taken_; }
  bool shut_down() const { return shut_down_; }

 private:
  const int64_t cost_;
  const int most_;
  std::atomic<int> taken_ = 0;
  std::atomic<bool> shut_down_ = false;
};

TEST_F(SchedulerTest, StepsTakeTurnsWithBatchesByCost) {
  Stepper steps(50, 1000);
  std::vector<int> taken;
  engine_ = NewEngine([&](const RunLog::Tags&, int64_t) {
    taken.push_back(steps.taken());
    return absl::OkStatus();
  });
  options_.max_batch_cost = 100;
  StartPlugged(100);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Submit(Make(i, 100)).ok());
  scheduler_->Attach(&steps);
  scheduler_->Notify(&steps);
  Finish();
  scheduler_->Detach(&steps);
  // The first run is the plug's. From then on two steps for each batch of twice their cost.
  ASSERT_EQ(taken.size(), 11);
  for (size_t i = 1; i < taken.size(); ++i) EXPECT_NEAR(taken[i], 2 * static_cast<int>(i), 2) << i;
}

TEST_F(SchedulerTest, IdleStepsEarnNoCredit) {
  Stepper steps(50, 1000);
  std::vector<int> taken;
  engine_ = NewEngine([&](const RunLog::Tags&, int64_t) {
    taken.push_back(steps.taken());
    return absl::OkStatus();
  });
  options_.max_batch_cost = 100;
  Start();
  scheduler_->Attach(&steps);
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(Submit(Make(i, 100)).ok());
    ASSERT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  }
  engine_->Close();
  ASSERT_TRUE(Submit(Make(kPlug, 100)).ok());
  log_.Await(51);
  ASSERT_TRUE(Submit(Make(51, 100)).ok());
  scheduler_->Notify(&steps);
  Finish();
  scheduler_->Detach(&steps);
  EXPECT_LE(taken.back(), 4);  // Not the hundred steps that fifty batches would be worth.
}

TEST_F(SchedulerTest, StepsAreToldOfTheShutdown) {
  Stepper attached(1, 1), detached(1, 1);
  Start();
  scheduler_->Attach(&attached);
  scheduler_->Attach(&detached);
  scheduler_->Detach(&detached);
  scheduler_ = nullptr;
  EXPECT_TRUE(attached.shut_down());
  EXPECT_FALSE(detached.shut_down());
}

}  // namespace
}  // namespace thresher
