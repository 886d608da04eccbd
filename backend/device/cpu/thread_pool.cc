#include "backend/device/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace thresher {
namespace {

// Long enough to bridge the serial moments between two operations, short enough to cost an idle
// server nothing that shows.
constexpr std::chrono::microseconds kSpinTime{30};

// Work (in multiply-adds, or as many element operations) below which waking a worker costs more
// than it gives: some microseconds on one thread.
constexpr int64_t kWorthSharing = 200'000;
// Elements one task of a row-wise operation should have.
constexpr int64_t kRowTaskElements = 16'384;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  workers_.reserve(threads > 1 ? threads - 1 : 0);
  try {
    for (int worker = 1; worker < threads; ++worker) {
      workers_.emplace_back([this, worker] { Work(worker); });
    }
  } catch (...) {  // The system has no more threads to give: end those that there are.
    Stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  stopping_.store(true);
  state_.fetch_add(kGeneration);
  state_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(int64_t tasks, Body body) {
  if (tasks <= 1 || workers_.empty()) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  body_ = &body;
  tasks_ = tasks;
  next_task_.store(0, std::memory_order_relaxed);
  state_.fetch_add(kGeneration | kOpen, std::memory_order_release);
  state_.notify_all();
  RunTasks(0);
  // No one enters from here on; wait for those inside.
  uint32_t state = state_.fetch_and(~kOpen) & ~kOpen;
  while ((state & kInside) != 0) state = AwaitChange(state);
}

void ThreadPool::ForTasks(int64_t tasks, int64_t work, Body body) {
  if (work >= kWorthSharing) return ParallelFor(tasks, body);
  for (int64_t task = 0; task < tasks; ++task) body(task, 0);
}

void ThreadPool::ForRows(int64_t rows, int64_t cols,
                         absl::FunctionRef<void(int64_t first, int64_t count)> body) {
  const int64_t count = std::max<int64_t>(1, kRowTaskElements / std::max<int64_t>(cols, 1));
  // A row of a norm or a conversion costs about ten operations for each element.
  ForTasks(DivideUp(rows, count), rows * cols * 10,
           [&](int64_t task, int) { body(task * count, std::min(count, rows - task * count)); });
}

void ThreadPool::Work(int worker) {
  uint32_t done = 0;  // The generation this worker has taken part in.
  uint32_t state = state_.load(std::memory_order_acquire);
  while (!stopping_.load(std::memory_order_acquire)) {
    const uint32_t generation = state & ~(kInside | kOpen);
    if ((state & kOpen) == 0 || generation == done) {
      state = AwaitChange(state);
      continue;
    }
    if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) continue;
    done = generation;
    RunTasks(worker);
    // Only the caller of a closed job waits for the count to fall to zero.
    state = state_.fetch_sub(1, std::memory_order_acq_rel) - 1;
    if ((state & (kInside | kOpen)) == 0) state_.notify_all();
  }
}

void ThreadPool::RunTasks(int worker) {
  while (true) {
    const int64_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task >= tasks_) return;
    (*body_)(task, worker);
  }
}

uint32_t ThreadPool::AwaitChange(uint32_t old) {
  const auto until = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 32; ++i) {
      const uint32_t state = state_.load(std::memory_order_acquire);
      if (state != old) return state;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < until);
  state_.wait(old, std::memory_order_acquire);
  return state_.load(std::memory_order_acquire);
}

}  // namespace thresher
