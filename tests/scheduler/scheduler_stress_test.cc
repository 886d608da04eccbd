// Properties under many threads and many jobs.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "backend/scheduler/scheduler.h"
#include "tests/scheduler/fake_engine.h"
#include "tests/testing/fake_clock.h"

namespace thresher {
namespace {

using testing::FakeClock;
using testing::FakeEngine;
using testing::RunLog;

constexpr int64_t kBudget = 64;

/// What became of one job.
struct Fate {
  std::atomic<int> runs = 0;
  std::atomic<int> answers = 0;
  std::atomic<int> code = -1;
  std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);
  bool accepted = false;
  bool born_cancelled = false;
};

// A bad sequence fails every batch that it is in.
bool IsBad(int32_t tag) { return tag % 97 == 13; }

class SchedulerStressTest : public ::testing::TestWithParam<absl::Duration> {};  // max_batch_delay

TEST_P(SchedulerStressTest, EveryAcceptedJobIsAnsweredExactlyOnce) {
  constexpr int kThreads = 4;
  constexpr int kCalls = 400;
  constexpr int kMaxJobs = 4;
  FakeClock clock;
  std::vector<Fate> fates(kThreads * kCalls * kMaxJobs);
  RunLog log;
  std::atomic<int> over_budget = 0;
  const auto on_run = [&](const RunLog::Tags& tags, int64_t cost) {
    if (cost > kBudget && tags.size() > 1) ++over_budget;
    clock.Advance(absl::Microseconds(10 * cost));
    bool bad = false;
    for (const int32_t tag : tags) {
      ++fates[tag].runs;
      bad |= IsBad(tag);
    }
    return bad ? absl::InternalError("bad") : absl::OkStatus();
  };
  std::vector<std::shared_ptr<FakeEngine>> engines;
  for (int i = 0; i < 3; ++i) engines.push_back(std::make_shared<FakeEngine>(&log, on_run));

  SchedulerOptions options;
  options.clock = &clock;
  options.max_batch_cost = kBudget;
  options.max_batch_sequences = 8;
  options.max_queue = 64;
  options.max_batch_delay = GetParam();
  auto scheduler = std::make_unique<Scheduler>(options, nullptr);

  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      const auto pick = [&](int n) { return static_cast<int>(random() % n); };
      for (int call = 0; call < kCalls; ++call) {
        const int first = (t * kCalls + call) * kMaxJobs;
        const int count = 1 + pick(kMaxJobs);
        std::vector<Job> jobs;
        for (int i = 0; i < count; ++i) {
          const int tag = first + i;
          Fate& fate = fates[tag];
          fate.born_cancelled = pick(20) == 0;
          fate.cancelled->store(fate.born_cancelled);
          Job job;
          job.engine = engines[pick(3)];
          job.sequence.ids.assign(1 + pick(100), tag);
          job.priority = pick(3);
          if (pick(2) == 0) job.deadline = clock.Now() + absl::Microseconds(pick(20000));
          job.cancelled = fate.cancelled;
          job.done = [&fate](absl::StatusOr<JobResult> result) {
            ++fate.answers;
            fate.code = static_cast<int>(result.status().code());
          };
          jobs.push_back(std::move(job));
        }
        const absl::Status status = scheduler->Submit(std::move(jobs));
        for (int i = 0; i < count; ++i) fates[first + i].accepted = status.ok();
        if (absl::IsResourceExhausted(status) && GetParam() == absl::ZeroDuration()) {
          scheduler->WaitIdle(absl::InfiniteFuture());
        }
        if (pick(4) == 0) fates[first].cancelled->store(true);
        if (pick(8) == 0) clock.Advance(absl::Microseconds(pick(200)));
        EXPECT_LE(scheduler->snapshot().queued, options.max_queue);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  scheduler->StopAccepting();
  ASSERT_TRUE(scheduler->WaitIdle(absl::InfiniteFuture()));
  scheduler.reset();

  EXPECT_EQ(over_budget, 0);
  int answered = 0;
  for (size_t tag = 0; tag < fates.size(); ++tag) {
    const Fate& fate = fates[tag];
    SCOPED_TRACE(tag);
    ASSERT_EQ(fate.answers, fate.accepted ? 1 : 0);
    if (!fate.accepted) {
      ASSERT_EQ(fate.runs, 0);
      continue;
    }
    ++answered;
    switch (static_cast<absl::StatusCode>(fate.code.load())) {
      case absl::StatusCode::kOk:
        ASSERT_FALSE(fate.born_cancelled);
        ASSERT_FALSE(IsBad(static_cast<int32_t>(tag)));
        ASSERT_GE(fate.runs, 1);
        ASSERT_LE(fate.runs, 2);
        break;
      case absl::StatusCode::kInternal:
        ASSERT_TRUE(IsBad(static_cast<int32_t>(tag)));
        break;
      case absl::StatusCode::kCancelled:
      case absl::StatusCode::kDeadlineExceeded:
        ASSERT_LE(fate.runs, 1);  // One, if it was in a batch that failed.
        break;
      default:
        FAIL() << "code " << fate.code;
    }
  }
  EXPECT_GT(answered, 0);
}

INSTANTIATE_TEST_SUITE_P(Delay, SchedulerStressTest,
                         ::testing::Values(absl::ZeroDuration(), absl::Microseconds(50)));

// A queue that was quadratic anywhere would run into the test's time limit.
TEST(SchedulerFloodTest, TakesAFloodOfAHundredThousandJobs) {
  constexpr int kJobs = 100'000;
  FakeClock clock;
  RunLog log;
  const auto engine = std::make_shared<FakeEngine>(&log);
  engine->Close();
  SchedulerOptions options;
  options.clock = &clock;
  options.max_queue = kJobs + 1;
  Scheduler scheduler(options, nullptr);
  std::atomic<int> ok = 0, late = 0;
  std::mt19937 random(3);
  for (int i = 0; i < kJobs; ++i) {
    Job job;
    job.engine = engine;
    job.sequence.ids.assign(1 + random() % 20, i);
    job.priority = static_cast<int32_t>(random() % 10);
    if (i % 2 == 0) job.deadline = clock.Now() + absl::Seconds(1 + random() % 1000);
    job.done = [&](absl::StatusOr<JobResult> result) { ++(result.ok() ? ok : late); };
    std::vector<Job> jobs;
    jobs.push_back(std::move(job));
    ASSERT_TRUE(scheduler.Submit(std::move(jobs)).ok());
  }
  clock.Advance(absl::Seconds(500));
  engine->Open();
  ASSERT_TRUE(scheduler.WaitIdle(absl::InfiniteFuture()));
  EXPECT_EQ(ok + late, kJobs);
  EXPECT_GT(late, kJobs / 5);
  EXPECT_GE(ok, kJobs / 2);
}

}  // namespace
}  // namespace thresher
