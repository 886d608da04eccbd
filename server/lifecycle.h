// From start to stop: what the server is doing, what signals ask for, and the order of a graceful
// stop.
//
//   starting -> serving -> lame duck -> draining
//
// SIGTERM or SIGINT while serving asks for a stop: readiness goes down at once; for `lame_duck` new
// work is still served, so that load balancers have time to look; then new work is refused and what
// was accepted has `drain_timeout` to finish. While starting (with status 0), or when a stop is
// under way already (128 + signal), such a signal ends the process at once. SIGHUP while serving
// asks for a reload of all models.
#ifndef THRESHER_SERVER_LIFECYCLE_H_
#define THRESHER_SERVER_LIFECYCLE_H_

#include <functional>
#include <string_view>

#include "absl/time/time.h"
#include "backend/scheduler/clock.h"
#include "backend/tensor/mutex.h"

namespace thresher {

enum class Phase { kStarting, kServing, kLameDuck, kDraining };
std::string_view Name(Phase phase);  // "starting", "serving", "lame duck", "draining"

struct LifecycleOptions {
  absl::Duration lame_duck;
  absl::Duration drain_timeout;
  Clock* clock = Clock::Real();
  /// Ends the process with this status, without ceremony. Set by tests alone.
  std::function<void(int status)> end_now;
};

/// The parts of a stop, in the order in which they are called.
struct StopActions {
  std::function<void()> leave_rotation;   // Readiness and health go down.
  std::function<void()> refuse_new_work;  // From now on UNAVAILABLE.
  /// Waits until accepted work is done, at most until `deadline`. True: all of it is.
  std::function<bool(absl::Time deadline)> drain;
};

/// Thread-safe; Wait and Stop are the main thread's.
class Lifecycle {
 public:
  explicit Lifecycle(LifecycleOptions options);

  Phase phase() const;
  void OnSignal(int signal);
  /// Start-up is over.
  void SetServing();

  enum class Request { kReload, kStop };
  /// Waits for the next request. A stop comes before a reload.
  Request Wait();

  /// Stops gracefully. True if everything accepted was answered in time.
  bool Stop(const StopActions& actions);

 private:
  void SetPhase(Phase phase);

  const LifecycleOptions options_;
  mutable Mutex mutex_;
  CondVar changed_;
  Phase phase_ = Phase::kStarting;
  bool stop_ = false;
  bool reload_ = false;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_LIFECYCLE_H_
