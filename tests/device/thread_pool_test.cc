#include "backend/device/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

namespace thresher {
namespace {

TEST(ThreadPool, RunsEveryTaskExactlyOnce) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t tasks : {0, 1, 2, 5, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      pool.ParallelFor(tasks, [&](int64_t task, int) { ++runs[static_cast<size_t>(task)]; });
      for (const auto& count : runs) EXPECT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, WorkerNumbersAreInRangeAndNeverSharedAtOneTime) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  pool.ParallelFor(2000, [&](int64_t, int worker) {
    ASSERT_GE(worker, 0);
    ASSERT_LT(worker, 4);
    EXPECT_EQ(inside[static_cast<size_t>(worker)].fetch_add(1), 0);
    inside[static_cast<size_t>(worker)].fetch_sub(1);
  });
}

TEST(ThreadPool, LittleWorkStaysOnTheCaller) {
  ThreadPool pool(3);
  std::vector<std::thread::id> ran(100);
  pool.ForTasks(100, 1000, [&](int64_t task, int worker) {
    EXPECT_EQ(worker, 0);
    ran[static_cast<size_t>(task)] = std::this_thread::get_id();
  });
  for (const std::thread::id id : ran) EXPECT_EQ(id, std::this_thread::get_id());
}

TEST(ThreadPool, PiecesOfRowsAreAllRowsOnce) {
  ThreadPool pool(3);
  for (const int64_t rows : {0, 1, 7, 1000}) {
    for (const int64_t cols : {0, 1, 100, 100'000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(rows));
      pool.ForRows(rows, cols, [&](int64_t first, int64_t count) {
        for (int64_t r = first; r < first + count; ++r) ++runs[static_cast<size_t>(r)];
      });
      for (const auto& count : runs) EXPECT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, TheCallerIsWorkerZero) {
  ThreadPool pool(3);
  const std::thread::id caller = std::this_thread::get_id();
  pool.ParallelFor(500, [&](int64_t, int worker) {
    EXPECT_EQ(worker == 0, std::this_thread::get_id() == caller);
  });
}

TEST(ThreadPool, WhatTasksWroteIsSeenAfterwardsOverManyShortJobs) {
  ThreadPool pool(4);
  std::vector<int64_t> values(8, 0);  // Not atomic: the pool itself must order the accesses.
  for (int64_t job = 1; job <= 20'000; ++job) {
    pool.ParallelFor(8, [&](int64_t task, int) { values[static_cast<size_t>(task)] += task; });
    if (job % 1000 == 0) {
      for (int64_t task = 0; task < 8; ++task) {
        ASSERT_EQ(values[static_cast<size_t>(task)], job * task);
      }
    }
  }
}

TEST(ThreadPool, WorkersTakePartWhenTheCallerIsBusy) {
  ThreadPool pool(2);
  // Two tasks that each wait for the other: the job ends only if both threads work on it.
  std::atomic<int> arrived = 0;
  pool.ParallelFor(2, [&](int64_t, int) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
  });
  EXPECT_EQ(arrived, 2);
}

TEST(ThreadPool, StartsAndStopsWithoutEverWorking) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

}  // namespace
}  // namespace thresher
