// What the scheduler refuses, at the door and when it forms a batch.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/scheduler/retry_hint.h"
#include "tests/scheduler/scheduler_fixture.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kPlug;
using testing::RunLog;
using Code = absl::StatusCode;

class SchedulerAdmissionTest : public testing::SchedulerTest {
 protected:
  absl::Status CheckRoom(size_t jobs, absl::Duration timeout = absl::InfiniteDuration()) {
    Job job;
    job.engine = engine_;
    job.deadline = clock_.Now() + timeout;
    return scheduler_->CheckRoom(job, jobs);
  }
};

// ---- Admission ----

TEST_F(SchedulerAdmissionTest, RefusesAtOnceWhatTheQueueHasNoRoomFor) {
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

TEST_F(SchedulerAdmissionTest, AFullQueueSaysWhenToComeAgain) {
  options_.max_queue = 3;
  StartTaughtAndPlugged();
  for (int i = 1; i <= 3; ++i) ASSERT_TRUE(Submit(Make(i, 100)).ok());
  // 300 ms of work wait: the hints are from half of that to all of it, and not all the same.
  const auto first = RetryHint(Submit(Make(4, 1)));
  const auto second = RetryHint(Submit(Make(5, 1)));
  ASSERT_TRUE(first && second);
  for (const absl::Duration hint : {*first, *second}) {
    EXPECT_GE(hint, absl::Milliseconds(120));
    EXPECT_LE(hint, absl::Milliseconds(300));
  }
  EXPECT_NE(*first, *second);
  EXPECT_FALSE(RetryHint(absl::OkStatus()));
  FinishTaught();
}

TEST_F(SchedulerAdmissionTest, RefusesWhoWouldWaitLongerThanTheDelay) {
  options_.max_queue_delay = absl::Milliseconds(125);
  StartTaughtAndPlugged();  // 20 ms are left of the running batch.
  EXPECT_TRUE(Submit(Make(1, 100)).ok());
  EXPECT_TRUE(Submit(Make(2, 100, absl::Seconds(9))).ok());  // Goes first.
  EXPECT_TRUE(CheckRoom(1, absl::Seconds(8)).ok());          // And this before it.
  const absl::Status refused = Submit(Make(3, 1));
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("expected to be 220ms, and 125ms is"));
  EXPECT_TRUE(RetryHint(refused));
  EXPECT_EQ(CheckRoom(1).code(), Code::kResourceExhausted);
  FinishTaught();
  EXPECT_TRUE(CheckRoom(1).ok());
}

TEST_F(SchedulerAdmissionTest, JobsWaitAsLongAsPatienceSays) {
  options_.patience = absl::Milliseconds(100);
  StartTaughtAndPlugged();  // 20 ms are left of the running batch.
  constexpr int kAlways = SchedulerOptions::kAlwaysWait;
  for (int i = 1; i <= kAlways; ++i) ASSERT_TRUE(Submit(Make(i, 5)).ok());
  EXPECT_EQ(scheduler_->snapshot().pressure, 5.0 * kAlways / 100);
  EXPECT_TRUE(Submit(Make(kAlways + 1, 120 - 5 * kAlways)).ok());  // Behind less than 100 ms.
  EXPECT_EQ(scheduler_->snapshot().pressure, 1.0);
  const absl::Status refused = Submit(Make(99, 1));
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("expected to be 140ms, and 100ms is"));
  EXPECT_TRUE(RetryHint(refused));
  // What has a deadline goes first, and waits for as long as it takes less than a tenth of that.
  EXPECT_TRUE(Submit(Make(98, 500, absl::Seconds(2))).ok());
  EXPECT_EQ(Submit(Make(97, 1, absl::Seconds(5))).code(), Code::kResourceExhausted);
  EXPECT_TRUE(Submit(Make(96, 1, absl::Seconds(6))).ok());
  FinishTaught();
}

TEST_F(SchedulerAdmissionTest, AFewWaitForASlowModelWhateverPatienceSays) {
  options_.patience = absl::Milliseconds(100);
  StartTaughtAndPlugged();
  for (int i = 1; i <= static_cast<int>(SchedulerOptions::kAlwaysWait); ++i) {
    EXPECT_LT(scheduler_->snapshot().pressure, 1.0);
    std::vector<Job> call;  // Its jobs came together and count as one.
    for (int j = 0; j < 3; ++j) call.push_back(Make(10 * i + j, 1000));
    EXPECT_TRUE(scheduler_->Submit(std::move(call)).ok());
  }
  EXPECT_EQ(Submit(Make(999, 1)).code(), Code::kResourceExhausted);
  EXPECT_EQ(scheduler_->snapshot().pressure, 1.0);
  // One of another model waits for the batch that runs and its turn, no more.
  EXPECT_TRUE(Submit(answers_.MakeJob(NewEngine(), 998, 1)).ok());
  FinishTaught();
}

TEST_F(SchedulerAdmissionTest, WhatRunsLaterDelaysNobody) {
  options_.patience = absl::Milliseconds(100);
  StartTaughtAndPlugged();
  for (int i = 1; i <= 20; ++i) ASSERT_TRUE(Submit(Make(i, 50, absl::Hours(1), -1)).ok());
  EXPECT_TRUE(Submit(Make(99, 1)).ok());
  EXPECT_TRUE(Submit(Make(98, 1, absl::Milliseconds(22))).ok());
  EXPECT_EQ(FinishTaught().front(), (RunLog::Tags{98}));
}

TEST_F(SchedulerAdmissionTest, SaysThatACallIsLargerThanTheQueue) {
  options_.max_queue = 1;
  Start();
  std::vector<Job> two;
  two.push_back(Make(1, 1));
  two.push_back(Make(2, 1));
  const absl::Status status = scheduler_->Submit(std::move(two));
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("send fewer"));
}

TEST_F(SchedulerAdmissionTest, TellsOfRoomWithoutTakingIt) {
  options_.max_queue = 2;
  StartPlugged();
  EXPECT_TRUE(CheckRoom(2).ok());
  EXPECT_TRUE(CheckRoom(2).ok());  // The first took nothing.
  ASSERT_TRUE(Submit(Make(1, 1)).ok());
  EXPECT_TRUE(CheckRoom(1).ok());
  const absl::Status full = CheckRoom(2);
  EXPECT_EQ(full.code(), Code::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("1 of 2 places are taken and 2 are wanted"));
  const absl::Status too_many = CheckRoom(3);
  EXPECT_EQ(too_many.code(), Code::kResourceExhausted);
  EXPECT_THAT(std::string(too_many.message()), HasSubstr("send fewer"));
  EXPECT_EQ(scheduler_->snapshot().queued, 1);
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1)));
  EXPECT_TRUE(CheckRoom(2).ok());  // The room has come back.
}

TEST_F(SchedulerAdmissionTest, HasNoRoomWhileItDrains) {
  StartPlugged();
  scheduler_->StopAccepting();
  EXPECT_EQ(CheckRoom(1).code(), Code::kUnavailable);
  EXPECT_TRUE(Finish().empty());
  EXPECT_EQ(CheckRoom(1).code(), Code::kUnavailable);
}

TEST_F(SchedulerAdmissionTest, TakesNoJobsAsDone) {
  Start();
  EXPECT_TRUE(scheduler_->Submit({}).ok());
  EXPECT_TRUE(scheduler_->WaitIdle(clock_.Now()));
}

TEST_F(SchedulerAdmissionTest, RefusesAPassedDeadlineAndWithItTheWholeCall) {
  StartPlugged();
  std::vector<Job> two;
  two.push_back(Make(1, 1));
  two.push_back(Make(2, 1, absl::ZeroDuration()));
  EXPECT_EQ(scheduler_->Submit(std::move(two)).code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(Finish().empty());
  EXPECT_THAT(answers_.order(), ElementsAre(kPlug));
}

TEST_F(SchedulerAdmissionTest, DeadlineThatPassesInTheQueueIsNotComputed) {
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
TEST_F(SchedulerAdmissionTest, ExpiredJobsKeepTheirPlaceButNotTheirCost) {
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

TEST_F(SchedulerAdmissionTest, CancelledJobIsDroppedBeforeCompute) {
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

TEST_F(SchedulerAdmissionTest, PredictsNothingFromTooFewBatches) {
  StartPlugged(1000);
  EXPECT_TRUE(Submit(Make(1, 1000, absl::Nanoseconds(1))).ok());
}

TEST_F(SchedulerAdmissionTest, RefusesADeadlineThatTheJobAloneWouldMiss) {
  StartTaught();
  const absl::Status status = Submit(Make(1, 50, absl::Milliseconds(49)));
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the deadline is 49ms away"));
  EXPECT_TRUE(Submit(Make(2, 50, absl::Milliseconds(51))).ok());
  ASSERT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  EXPECT_EQ(answers_.code(1), Code::kNotFound);
  EXPECT_EQ(answers_.code(2), Code::kOk);
}

TEST_F(SchedulerAdmissionTest, WhatGoesBeforeCountsTwiceAndTheRestOfTheBatchOnce) {
  StartTaughtAndPlugged();  // 20 ms are left of the running batch.
  ASSERT_TRUE(Submit(Make(1, 30, absl::Seconds(1))).ok());
  ASSERT_TRUE(Submit(Make(2, 500)).ok());  // Without a deadline: behind all that have one.
  const auto refused = [&](Job job) {
    const absl::Status status = Submit(std::move(job));
    // Another time it may be in time.
    EXPECT_EQ(status.code(), Code::kResourceExhausted) << status;
    EXPECT_TRUE(RetryHint(status));
  };
  refused(Make(3, 10, absl::Milliseconds(29)));
  EXPECT_TRUE(Submit(Make(4, 10, absl::Milliseconds(31))).ok());  // Before 1.
  refused(Make(5, 10, absl::Milliseconds(20 + 2 * 540 + 9), -1));
  EXPECT_TRUE(Submit(Make(6, 10, absl::Milliseconds(31), 1)).ok());  // Before 4.
  refused(Make(7, 10, absl::Milliseconds(20 + 2 * 20 + 9)));
  EXPECT_TRUE(Submit(Make(8, 10, absl::Milliseconds(20 + 2 * 20 + 11))).ok());
}

TEST_F(SchedulerAdmissionTest, RefusesWhoCanNotBeInTimeBeforeWorkIsSpentOnIt) {
  StartTaughtAndPlugged();
  ASSERT_TRUE(Submit(Make(1, 30, absl::Milliseconds(60))).ok());
  EXPECT_EQ(CheckRoom(1, absl::Milliseconds(79)).code(), Code::kResourceExhausted);
  EXPECT_TRUE(CheckRoom(1, absl::Milliseconds(81)).ok());
  EXPECT_TRUE(CheckRoom(1, absl::Milliseconds(59)).ok());  // Before the other.
  EXPECT_EQ(CheckRoom(1, absl::ZeroDuration()).code(), Code::kDeadlineExceeded);
}

TEST_F(SchedulerAdmissionTest, PredictionCountsWhatHasAlreadyRunOfTheBatch) {
  StartTaughtAndPlugged();
  clock_.Advance(absl::Milliseconds(15));
  EXPECT_EQ(Submit(Make(1, 10, absl::Milliseconds(14))).code(), Code::kResourceExhausted);
  EXPECT_TRUE(Submit(Make(2, 10, absl::Milliseconds(16))).ok());
  clock_.Advance(absl::Milliseconds(50));  // Far longer than predicted: any moment now.
  EXPECT_TRUE(Submit(Make(3, 10, absl::Milliseconds(11))).ok());
}

TEST_F(SchedulerAdmissionTest, JobsOfOneCallDelayEachOther) {
  StartTaughtAndPlugged();
  const auto both = [&](absl::Duration timeout) {
    std::vector<Job> jobs;
    jobs.push_back(Make(1, 10, timeout));
    jobs.push_back(Make(2, 10, timeout));
    return scheduler_->Submit(std::move(jobs));
  };
  EXPECT_EQ(both(absl::Milliseconds(39)).code(), Code::kResourceExhausted);
  EXPECT_EQ(scheduler_->snapshot().queued, 0);  // None was taken.
  EXPECT_EQ(scheduler_->snapshot().queued_cost, 0);
  EXPECT_TRUE(both(absl::Milliseconds(61)).ok());
  EXPECT_THAT(FinishTaught(), ElementsAre(ElementsAre(1, 2)));
}

TEST_F(SchedulerAdmissionTest, TakesACallOfJobsWhosePointersOwnNoEngine) {
  const auto other = NewEngine();
  StartPlugged();
  std::vector<Job> two;
  for (int tag = 1; tag <= 2; ++tag) {
    two.push_back(Make(tag, 1, absl::Hours(1)));
    two.back().engine = std::shared_ptr<Engine>(std::shared_ptr<Engine>(), other.get());
  }
  EXPECT_TRUE(scheduler_->Submit(std::move(two)).ok());
  EXPECT_THAT(Finish(), ElementsAre(ElementsAre(1, 2)));
}

TEST_F(SchedulerAdmissionTest, DropsAtBatchFormationWhatCanNoLongerBeInTime) {
  StartTaughtAndPlugged();
  ASSERT_TRUE(Submit(Make(1, 10, absl::Milliseconds(35))).ok());
  ASSERT_TRUE(Submit(Make(2, 2, absl::Milliseconds(43))).ok());
  clock_.Advance(absl::Milliseconds(10));  // The plug takes 30 ms in all: 5 and 13 are left.
  EXPECT_THAT(FinishTaught(), ElementsAre(ElementsAre(2)));
  EXPECT_EQ(answers_.code(1), Code::kDeadlineExceeded);
  EXPECT_EQ(answers_.code(2), Code::kOk);
}

TEST_F(SchedulerAdmissionTest, ABatchGrowsNoFurtherThanLeavesItsFirstJobTwiceTheTime) {
  StartTaughtAndPlugged();
  ASSERT_TRUE(Submit(Make(1, 10, absl::Milliseconds(82))).ok());  // When it runs, 62 are left.
  for (int i = 2; i <= 5; ++i) ASSERT_TRUE(Submit(Make(i, 10, absl::Seconds(9))).ok());
  EXPECT_THAT(FinishTaught(), ElementsAre(ElementsAre(1, 2, 3), ElementsAre(4, 5)));
}

TEST_F(SchedulerAdmissionTest, ASpellOfSlownessDoesNotRefuseForEver) {
  StartTaught();
  EXPECT_EQ(Submit(Make(1, 50, absl::Milliseconds(5))).code(), Code::kDeadlineExceeded);
  clock_.Advance(absl::Seconds(11));
  EXPECT_TRUE(Submit(Make(2, 50, absl::Milliseconds(5))).ok());
}

}  // namespace
}  // namespace thresher
