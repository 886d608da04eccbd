// Signals as calls on an ordinary thread, where everything is allowed that a handler must not do.
#ifndef THRESHER_SERVER_SIGNALS_H_
#define THRESHER_SERVER_SIGNALS_H_

#include <csignal>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

namespace thresher {

/// Blocks `signals` in the calling thread, and so in all threads that it starts afterwards: make it
/// before them. From then on each signal is a call of `on_signal`, one at a time, on the watcher's
/// own thread. The destructor ends that thread and restores the calling thread's mask.
class SignalWatcher {
 public:
  /// INTERNAL when the kernel refuses, with its reason.
  static absl::StatusOr<std::unique_ptr<SignalWatcher>> Start(
      const std::vector<int>& signals, std::function<void(int signal)> on_signal);
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  class Impl;
  explicit SignalWatcher(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_SIGNALS_H_
