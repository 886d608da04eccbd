#include "server/signals.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {

class SignalWatcher::Impl {
 public:
  Impl(const std::vector<int>& signals, std::function<void(int)> on_signal)
      : on_signal_(std::move(on_signal)) {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : signals) sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, &previous_);
    signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    stop_ = eventfd(0, EFD_CLOEXEC);
    if (signals_ >= 0 && stop_ >= 0) {
      thread_ = std::thread([this] { Watch(); });
    } else {
      error_ = errno;
    }
  }

  ~Impl() {
    if (thread_.joinable()) {
      const uint64_t one = 1;
      while (write(stop_, &one, sizeof(one)) < 0 && errno == EINTR) {
      }
      thread_.join();
    }
    if (signals_ >= 0) close(signals_);
    if (stop_ >= 0) close(stop_);
    pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
  }

  int error() const { return error_; }

 private:
  void Watch() {
    pollfd files[] = {{signals_, POLLIN, 0}, {stop_, POLLIN, 0}};
    for (;;) {
      if (poll(files, 2, -1) < 0 && errno != EINTR) return;
      if (files[1].revents != 0) return;
      signalfd_siginfo info;
      while (read(signals_, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
        on_signal_(static_cast<int>(info.ssi_signo));
      }
    }
  }

  std::function<void(int)> on_signal_;
  sigset_t previous_ = {};
  int signals_ = -1;
  int stop_ = -1;
  int error_ = 0;
  std::thread thread_;
};

SignalWatcher::SignalWatcher(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SignalWatcher::~SignalWatcher() = default;

absl::StatusOr<std::unique_ptr<SignalWatcher>> SignalWatcher::Start(
    const std::vector<int>& signals, std::function<void(int)> on_signal) {
  auto impl = std::make_unique<Impl>(signals, std::move(on_signal));
  if (impl->error() != 0) return Internal("can't watch signals: {}", std::strerror(impl->error()));
  return std::unique_ptr<SignalWatcher>(new SignalWatcher(std::move(impl)));
}

}  // namespace thresher
