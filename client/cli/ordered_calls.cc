#include "client/cli/ordered_calls.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>

#include "backend/tensor/status.h"

namespace thresher::cli {
namespace {

/// Lets other threads end a poll.
class Waker {
 public:
  Waker() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  ~Waker() {
    if (fd_ >= 0) close(fd_);
  }
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;

  int fd() const { return fd_; }
  void Wake() const {
    const uint64_t one = 1;
    // Fails only when the counter is full, and then the poll ends anyway.
    [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof one);
  }
  void Clear() const {
    uint64_t count;
    [[maybe_unused]] const ssize_t bytes = read(fd_, &count, sizeof count);
  }

 private:
  const int fd_;
};

struct Call {
  std::atomic<bool> done = false;
  ShowCall show;
};

/// Calls whose answers were not shown yet, in input order. The waker is shared with the `done`
/// functions, of which the last may still be returning when the loop has ended.
struct Window {
  std::deque<std::shared_ptr<Call>> calls;
  std::shared_ptr<Waker> waker = std::make_shared<Waker>();

  int InFlight() const {
    int count = 0;
    for (const auto& call : calls) count += call->done.load() ? 0 : 1;
    return count;
  }
};

}  // namespace

void AddCallLimits(CLI::App& app, CallLimits& limits, const std::string& group) {
  app.add_option("--batch", limits.batch, "Inputs in one call (default 32)")
      ->check(CLI::Range(1, 65536))
      ->option_text("N")
      ->group(group);
  app.add_option("--concurrency", limits.concurrency, "Calls in flight (default 4)")
      ->check(CLI::Range(1, 1024))
      ->option_text("N")
      ->group(group);
}

absl::Status RunOrdered(InputSource& source, const CallLimits& limits, const SendCall& send,
                        std::stop_token stop) {
  Window window;
  if (window.waker->fd() < 0) return Internal("eventfd: {}", std::strerror(errno));
  const std::stop_callback wake_on_stop(stop, [&] { window.waker->Wake(); });
  std::vector<Record> records;  // Of the next call.
  bool ended = false;
  absl::Status source_status;

  while (!stop.stop_requested()) {
    window.waker->Clear();
    while (!window.calls.empty() && window.calls.front()->done && !stop.stop_requested()) {
      window.calls.front()->show();
      window.calls.pop_front();
    }
    if (ended && records.empty() && window.calls.empty()) break;

    const int in_flight = window.InFlight();
    // Answers that came early wait for those before them; four times as many as can be in flight
    // keep the server busy beside one slow call.
    const bool room = in_flight < limits.concurrency &&
                      window.calls.size() < 4 * static_cast<size_t>(limits.concurrency);
    bool paused = false;
    while (room && !ended && !paused && records.size() < static_cast<size_t>(limits.batch)) {
      Record record;
      switch (source.Next(record)) {
        case InputSource::Result::kRecord:
          records.push_back(std::move(record));
          break;
        case InputSource::Result::kWait:
          paused = true;
          break;
        case InputSource::Result::kError:
          source_status = source.status();
          [[fallthrough]];
        case InputSource::Result::kEnd:
          ended = true;
          break;
      }
    }
    const bool full = records.size() == static_cast<size_t>(limits.batch);
    if (room && !records.empty() && (full || ended || (paused && in_flight == 0))) {
      auto call = std::make_shared<Call>();
      window.calls.push_back(call);
      call->show = send(std::exchange(records, {}), [call, waker = window.waker] {
        call->done = true;
        waker->Wake();
      });
      continue;
    }
    if (!window.calls.empty() && window.calls.front()->done) continue;
    if (ended && records.empty() && window.calls.empty()) break;
    pollfd events[] = {{window.waker->fd(), POLLIN, 0}, {source.fd(), POLLIN, 0}};
    poll(events, paused ? 2 : 1, -1);
  }
  while (window.InFlight() > 0) {
    pollfd event{window.waker->fd(), POLLIN, 0};
    poll(&event, 1, -1);
    window.waker->Clear();
  }
  return source_status;
}

}  // namespace thresher::cli
