// A few threads that run what they are given, first come first served.
#ifndef THRESHER_SERVER_WORKER_THREADS_H_
#define THRESHER_SERVER_WORKER_THREADS_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "backend/tensor/mutex.h"

namespace thresher {

/// Thread-safe.
class WorkerThreads {
 public:
  explicit WorkerThreads(int count);
  /// Runs all that was given, then joins.
  ~WorkerThreads();
  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;

  void Run(std::function<void()> work);

 private:
  void Loop();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_WORKER_THREADS_H_
