#include "server/grpc_listener.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "backend/scheduler/clock.h"
#include "backend/tensor/status.h"
#include "server/listen.h"

namespace thresher {
namespace {

constexpr absl::Duration kCountInterval = absl::Seconds(1);
constexpr absl::Duration kRest = absl::Milliseconds(100);
constexpr absl::Duration kLogInterval = absl::Seconds(10);
// For models, HTTP, logs and the like.
constexpr rlim_t kReservedFiles = 256;

int MostConnections(int wanted) {
  rlimit files = {};
  getrlimit(RLIMIT_NOFILE, &files);
  const rlim_t spare =
      files.rlim_cur > 2 * kReservedFiles ? files.rlim_cur - kReservedFiles : files.rlim_cur / 2;
  const int possible = static_cast<int>(std::min<rlim_t>(spare, 1'000'000));
  return wanted > 0 ? std::min(wanted, possible) : possible;
}

bool OutOfResources(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

}  // namespace

GrpcListener::GrpcListener(Options options, Address address)
    : options_(std::move(options)),
      address_(std::move(address)),
      max_connections_(MostConnections(options_.max_connections)),
      stop_(eventfd(0, EFD_CLOEXEC)) {}

GrpcListener::~GrpcListener() {
  Stop();
  if (stop_ >= 0) close(stop_);
}

void GrpcListener::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    while (write(stop_, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    thread_.join();
  }
  for (const int listener : listeners_) close(listener);
  listeners_.clear();
}

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::Listen(Options options) {
  THRESHER_ASSIGN_OR_RETURN(Address address, ParseAddress(options.address));
  auto listener =
      std::unique_ptr<GrpcListener>(new GrpcListener(std::move(options), std::move(address)));
  if (listener->stop_ < 0) return Unavailable("can't make an eventfd: {}", std::strerror(errno));
  THRESHER_ASSIGN_OR_RETURN(listener->listeners_, ListenOn(&listener->address_));
  return listener;
}

void GrpcListener::Start(std::unique_ptr<Acceptor> acceptor) {
  acceptor_ = std::move(acceptor);
  thread_ = std::thread([this] { Loop(); });
}

void GrpcListener::Loop() {
  std::vector<pollfd> files;
  for (;;) {
    const absl::Time now = Clock::Real()->Now();
    const bool resting = now < rest_until_;
    files.assign(1, {stop_, POLLIN, 0});
    if (!resting) {
      for (const int listener : listeners_) files.push_back({listener, POLLIN, 0});
    }
    // While connections are open, their number is looked at now and then.
    const int timeout = static_cast<int>(absl::ToInt64Milliseconds(
        resting ? rest_until_ - now + absl::Milliseconds(1) : kCountInterval));
    if (poll(files.data(), files.size(), resting || !open_.empty() ? timeout : -1) < 0 &&
        errno != EINTR) {
      spdlog::critical("gRPC accepts no more connections: poll: {}", std::strerror(errno));
      return;
    }
    if (files[0].revents != 0) return;
    if (Clock::Real()->Now() - counted_ >= kCountInterval) CountOpen();
    for (size_t i = 1; i < files.size(); ++i) {
      if (files[i].revents != 0) Accept(files[i].fd);
    }
  }
}

void GrpcListener::Accept(int listener) {
  constexpr int kAtOnce = 64;  // Then others have a turn.
  for (int i = 0; i < kAtOnce; ++i) {
    const int connection = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (connection >= 0) {
      Take(listener, connection);
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return;
    if (!OutOfResources(errno)) continue;  // That one was gone already.
    const absl::Time now = Clock::Real()->Now();
    if (now >= next_line_) {
      next_line_ = now + kLogInterval;
      spdlog::error("gRPC can't accept connections for the moment: {}", std::strerror(errno));
    }
    rest_until_ = now + kRest;
    return;
  }
}

void GrpcListener::Take(int listener, int connection) {
  struct stat socket = {};
  fstat(connection, &socket);
  // A known descriptor is another connection by now.
  open_[connection] = socket.st_ino;
  if (static_cast<int>(open_.size()) > max_connections_ &&
      Clock::Real()->Now() - counted_ >= kCountInterval / 10) {
    CountOpen();
  }
  if (static_cast<int>(open_.size()) > max_connections_) {
    options_.refused();
    open_.erase(connection);
    close(connection);
    const absl::Time now = Clock::Real()->Now();
    if (now < next_line_) return;
    next_line_ = now + kLogInterval;
    spdlog::warn("gRPC has {} connections: more are closed at once (--max-connections)",
                 max_connections_);
    return;
  }
  open_count_ = static_cast<int>(open_.size());
  const int yes = 1;
  setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  Acceptor::NewConnectionParameters parameters;
  parameters.listener_fd = listener;
  parameters.fd = connection;
  acceptor_->HandleNewConnection(&parameters);
}

void GrpcListener::CountOpen() {
  counted_ = Clock::Real()->Now();
  std::erase_if(open_, [](const auto& item) {
    struct stat socket = {};
    return fstat(item.first, &socket) != 0 || socket.st_ino != item.second;
  });
  open_count_ = static_cast<int>(open_.size());
}

}  // namespace thresher
