// The project's locks: absl::Mutex; under ThreadSanitizer, where Debian's uninstrumented Abseil
// would report races of its own, the same small interface over std::mutex.
//
//   Mutex mutex; CondVar changed;
//   MutexLock lock(&mutex);
//   while (!ready) changed.Wait(&mutex);
#ifndef THRESHER_BACKEND_TENSOR_MUTEX_H_
#define THRESHER_BACKEND_TENSOR_MUTEX_H_

#include "absl/time/time.h"

#ifdef THRESHER_TSAN
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#else
#include "absl/synchronization/mutex.h"
#endif

namespace thresher {

#ifdef THRESHER_TSAN

class Mutex {
 public:
  void Lock() { mutex_.lock(); }
  void Unlock() { mutex_.unlock(); }
  std::mutex& native() { return mutex_; }

 private:
  std::mutex mutex_;
};

class MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~MutexLock() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* mutex_;
};

class CondVar {
 public:
  void Wait(Mutex* mutex) {
    std::unique_lock<std::mutex> lock(mutex->native(), std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  /// True if it timed out.
  bool WaitWithTimeout(Mutex* mutex, absl::Duration timeout) {
    std::unique_lock<std::mutex> lock(mutex->native(), std::adopt_lock);
    // system_clock, since libtsan of GCC 12 does not know pthread_cond_clockwait.
    const auto until = std::chrono::system_clock::now() +
                       absl::ToChronoMicroseconds(std::min(timeout, absl::Hours(1)));
    const bool timed_out = condition_.wait_until(lock, until) == std::cv_status::timeout;
    lock.release();
    return timed_out;
  }
  void Signal() { condition_.notify_one(); }
  void SignalAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

#else

using Mutex = absl::Mutex;
using MutexLock = absl::MutexLock;
using CondVar = absl::CondVar;

#endif

}  // namespace thresher

#endif  // THRESHER_BACKEND_TENSOR_MUTEX_H_
