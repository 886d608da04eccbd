#include "backend/scheduler/job_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <tuple>
#include <vector>

namespace thresher {
namespace {

const absl::Time kStart = absl::UnixEpoch();

QueuedJob MakeJob(uint64_t number, int32_t priority, absl::Time deadline, int64_t cost) {
  QueuedJob job;
  job.job.priority = priority;
  job.job.deadline = deadline;
  job.cost = cost;
  job.number = number;
  job.arrival = kStart + absl::Milliseconds(number);
  return job;
}

TEST(JobQueueTest, OrdersByPriorityThenDeadlineThenArrival) {
  const absl::Time early = kStart + absl::Seconds(1), late = kStart + absl::Seconds(2);
  JobQueue queue;
  queue.Push(MakeJob(0, 0, absl::InfiniteFuture(), 1));
  queue.Push(MakeJob(1, 0, late, 2));
  queue.Push(MakeJob(2, 0, early, 4));
  queue.Push(MakeJob(3, 0, late, 8));
  queue.Push(MakeJob(4, 5, late, 16));
  queue.Push(MakeJob(5, -5, early, 32));
  EXPECT_EQ(queue.cost(), 63);
  EXPECT_EQ(queue.calls(), 6u);
  EXPECT_EQ(queue.Oldest().number, 0u);
  EXPECT_EQ(queue.EarliestDeadline(), early);
  EXPECT_EQ(queue.CostBefore(4), 0);
  EXPECT_EQ(queue.CostBefore(2), 16);
  EXPECT_EQ(queue.CostBefore(1), 20);
  EXPECT_EQ(queue.CostBefore(3), 22);
  EXPECT_EQ(queue.CostBefore(0), 30);
  EXPECT_EQ(queue.CostBefore(5), 31);
  EXPECT_EQ(queue.CostBefore(MakeJob(6, 0, early, 1).job), 20);  // Behind its equals.
  EXPECT_EQ(queue.CostBefore(MakeJob(6, 5, absl::InfiniteFuture(), 1).job), 16);
  EXPECT_EQ(queue.CostBefore(MakeJob(6, 9, late, 1).job), 0);
  std::vector<uint64_t> numbers;
  while (!queue.empty()) numbers.push_back(queue.PopFront().number);
  EXPECT_EQ(numbers, (std::vector<uint64_t>{4, 2, 1, 3, 0, 5}));
  EXPECT_EQ(queue.cost(), 0);
  EXPECT_EQ(queue.calls(), 0u);
  EXPECT_EQ(queue.EarliestDeadline(), absl::InfiniteFuture());
}

TEST(JobQueueTest, GivesUpJobsWhoseDeadlineHasPassedEarliestFirst) {
  JobQueue queue;
  queue.Push(MakeJob(0, 0, kStart + absl::Seconds(3), 1));
  queue.Push(MakeJob(1, -1, kStart + absl::Seconds(1), 1));
  queue.Push(MakeJob(2, 9, kStart + absl::Seconds(2), 1));
  queue.Push(MakeJob(3, 0, absl::InfiniteFuture(), 1));
  EXPECT_FALSE(queue.PopExpired(kStart).has_value());
  const absl::Time now = kStart + absl::Seconds(2);  // On time is too late.
  EXPECT_EQ(queue.PopExpired(now)->number, 1u);
  EXPECT_EQ(queue.PopExpired(now)->number, 2u);
  EXPECT_FALSE(queue.PopExpired(now).has_value());
  EXPECT_EQ(queue.size(), 2u);
}

// Random operations beside a plain vector that is sorted and summed each time.
TEST(JobQueueTest, AgreesWithASortedVector) {
  struct Plain {
    int32_t priority;
    absl::Time deadline;
    uint64_t number;
    int64_t cost;
    auto Key() const { return std::tuple(-priority, deadline, number); }
  };
  std::mt19937 random(7);
  const auto pick = [&](int n) { return static_cast<int>(random() % n); };
  JobQueue queue;
  std::vector<Plain> plain;
  uint64_t number = 0;
  for (int step = 0; step < 4000; ++step) {
    if (plain.empty() || pick(5) < 3) {
      const absl::Time deadline =
          pick(4) == 0 ? absl::InfiniteFuture() : kStart + absl::Seconds(pick(20));
      const Plain job{pick(3), deadline, number++, 1 + pick(100)};
      plain.push_back(job);
      queue.Push(MakeJob(job.number, job.priority, job.deadline, job.cost));
    } else if (pick(2) == 0) {
      EXPECT_EQ(queue.PopFront().number, plain.front().number);
      plain.erase(plain.begin());
    } else {
      const auto victim = plain.begin() + pick(static_cast<int>(plain.size()));
      EXPECT_EQ(queue.Remove(victim->number).cost, victim->cost);
      plain.erase(victim);
    }
    std::sort(plain.begin(), plain.end(),
              [](const Plain& a, const Plain& b) { return a.Key() < b.Key(); });
    int64_t sum = 0;
    for (const Plain& job : plain) {
      ASSERT_EQ(queue.CostBefore(job.number), sum);
      sum += job.cost;
    }
    ASSERT_EQ(queue.cost(), sum);
    ASSERT_EQ(queue.size(), plain.size());
  }
}

}  // namespace
}  // namespace thresher
