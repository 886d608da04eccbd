// The device's own threads: a loop's iterations shared among a few persistent workers and the
// caller.
//
//   ThreadPool pool(4);
//   pool.ParallelFor(tasks, [&](int64_t task, int worker) { ... });
//
// Iterations are handed out one at a time from a counter, so that ragged work balances itself and
// the caller never waits for a worker that is slow to wake: it takes the iterations itself and
// waits only for those that others have begun. Nothing may depend on which worker runs an
// iteration.
//
// Idle workers spin for some microseconds (the gap between two operations of a layer), then sleep.
#ifndef THRESHER_BACKEND_DEVICE_CPU_THREAD_POOL_H_
#define THRESHER_BACKEND_DEVICE_CPU_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace thresher {

/// How many pieces of `size` hold `value`.
inline int64_t DivideUp(int64_t value, int64_t size) { return (value + size - 1) / size; }

/// Loops are run by one thread at a time, and not from within an iteration.
class ThreadPool {
 public:
  using Body = absl::FunctionRef<void(int64_t task, int worker)>;

  /// `threads` >= 1 counts the caller: one fewer are started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Runs body(task, worker) for every task in [0, tasks); returns when all are done. `worker` is
  /// in [0, threads()) and no two calls with the same one overlap; the caller is worker 0. The body
  /// must not throw.
  void ParallelFor(int64_t tasks, Body body);

  /// As ParallelFor if `work`, in multiply-adds or as many element operations, is worth waking a
  /// worker; otherwise the caller runs all tasks.
  void ForTasks(int64_t tasks, int64_t work, Body body);

  /// For operations row by row on a matrix of `rows` x `cols`: body(first, count) for pieces of it
  /// that together are all its rows.
  void ForRows(int64_t rows, int64_t cols,
               absl::FunctionRef<void(int64_t first, int64_t count)> body);

 private:
  // One word says it all: | generation : 15 | open : 1 | workers inside : 16 |. A worker enters the
  // current job only while it is open, by adding itself to the count in the same word.
  static constexpr uint32_t kInside = 0xffff;
  static constexpr uint32_t kOpen = 1u << 16;
  static constexpr uint32_t kGeneration = 1u << 17;

  void Work(int worker);
  void Stop();
  void RunTasks(int worker);
  /// Spins, then sleeps, while the state is `old`; returns the new one.
  uint32_t AwaitChange(uint32_t old);

  std::atomic<uint32_t> state_{0};
  std::atomic<bool> stopping_{false};
  // The job. Written while no worker is inside and the job is not open.
  const Body* body_ = nullptr;
  int64_t tasks_ = 0;
  alignas(64) std::atomic<int64_t> next_task_{0};
  std::vector<std::thread> workers_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_THREAD_POOL_H_
