#include "server/lifecycle.h"

#include <spdlog/spdlog.h>

#include <csignal>
#include <cstdlib>
#include <optional>
#include <utility>

namespace thresher {
namespace {

LifecycleOptions WithDefaults(LifecycleOptions options) {
  if (!options.end_now) options.end_now = [](int status) { std::_Exit(status); };
  return options;
}

std::string_view SignalName(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGHUP:
      return "SIGHUP";
    default:
      return "a signal";
  }
}

}  // namespace

std::string_view Name(Phase phase) {
  switch (phase) {
    case Phase::kStarting:
      return "starting";
    case Phase::kServing:
      return "serving";
    case Phase::kLameDuck:
      return "lame duck";
    case Phase::kDraining:
      return "draining";
  }
  return "unknown";
}

Lifecycle::Lifecycle(LifecycleOptions options) : options_(WithDefaults(std::move(options))) {}

Phase Lifecycle::phase() const {
  MutexLock lock(&mutex_);
  return phase_;
}

void Lifecycle::SetPhase(Phase phase) {
  MutexLock lock(&mutex_);
  phase_ = phase;
}

void Lifecycle::SetServing() { SetPhase(Phase::kServing); }

void Lifecycle::OnSignal(int signal) {
  const std::string_view name = SignalName(signal);
  std::optional<int> end_now;  // With which status.
  {
    MutexLock lock(&mutex_);
    const std::string_view doing = stop_ ? "stopping" : Name(phase_);
    const bool serving = phase_ == Phase::kServing && !stop_;
    if (signal == SIGHUP) {
      if (serving) {
        reload_ = true;
      } else {
        spdlog::warn("{} ignored: there is nothing to reload while {}", name, doing);
      }
    } else if (serving) {
      stop_ = true;
    } else {
      // At the start nothing has been promised to anybody.
      end_now = phase_ == Phase::kStarting ? EXIT_SUCCESS : 128 + signal;
      spdlog::warn("{} while {}: ending now", name, doing);
    }
    changed_.SignalAll();
  }
  if (!end_now) return;
  spdlog::default_logger()->flush();
  options_.end_now(*end_now);
}

Lifecycle::Request Lifecycle::Wait() {
  MutexLock lock(&mutex_);
  while (!stop_ && !reload_) changed_.Wait(&mutex_);
  if (stop_) return Request::kStop;
  reload_ = false;
  return Request::kReload;
}

bool Lifecycle::Stop(const StopActions& actions) {
  Clock& clock = *options_.clock;
  if (options_.lame_duck > absl::ZeroDuration()) {
    SetPhase(Phase::kLameDuck);
    actions.leave_rotation();
    spdlog::info("stopping: not ready any more; new work is served for another {}",
                 absl::FormatDuration(options_.lame_duck));
    const absl::Time end = clock.Now() + options_.lame_duck;
    MutexLock lock(&mutex_);
    while (clock.Now() < end) clock.WaitUntil(&changed_, &mutex_, end);
  }
  SetPhase(Phase::kDraining);
  if (options_.lame_duck <= absl::ZeroDuration()) actions.leave_rotation();
  actions.refuse_new_work();
  spdlog::info("draining: new work is refused; what was accepted has {} to finish",
               absl::FormatDuration(options_.drain_timeout));
  const bool drained = actions.drain(clock.Now() + options_.drain_timeout);
  if (drained) {
    spdlog::info("drained");
  } else {
    spdlog::error("drain timeout: some accepted work was not answered in {}",
                  absl::FormatDuration(options_.drain_timeout));
  }
  return drained;
}

}  // namespace thresher
