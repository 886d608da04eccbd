#include "server/client_socket.h"

#include <arpa/inet.h>
#include <civetweb.h>
#include <dirent.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <memory>

namespace thresher {
namespace {

struct End {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&address); }
  int port() const {
    switch (address.ss_family) {
      case AF_INET:
        return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
      case AF_INET6:
        return ntohs(reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port);
      default:
        return -1;
    }
  }
  /// As CivetWeb writes it.
  std::string host() {
    std::array<char, NI_MAXHOST> text = {};
    getnameinfo(get(), size, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST);
    return text.data();
  }
};

}  // namespace

ClientSocket::ClientSocket(const mg_request_info& info)
    : peer_(info.remote_addr), peer_port_(info.remote_port), port_(info.server_port) {}

bool ClientSocket::Find() {
  if (file_.has_value()) return *file_ >= 0;
  file_ = -1;
  const std::unique_ptr<DIR, int (*)(DIR*)> files(opendir("/proc/self/fd"), closedir);
  if (files == nullptr) return false;
  while (const dirent* entry = readdir(files.get())) {
    const int file = std::atoi(entry->d_name);  // "." and ".." are 0, which is no connection.
    End peer, here;
    if (getpeername(file, peer.get(), &peer.size) != 0 || peer.port() != peer_port_) continue;
    if (getsockname(file, here.get(), &here.size) != 0 || here.port() != port_) continue;
    if (peer.host() != peer_) continue;
    file_ = file;
    return true;
  }
  return false;
}

bool ClientSocket::Closed() {
  if (!Find()) return false;
  pollfd ask = {*file_, POLLRDHUP, 0};
  return poll(&ask, 1, 0) > 0 && (ask.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

std::optional<int> ClientSocket::Await(absl::Duration time) {
  if (!Find()) return std::nullopt;
  const int64_t milliseconds =
      std::clamp<int64_t>(absl::ToInt64Milliseconds(time), 0, std::numeric_limits<int>::max());
  pollfd ask = {*file_, POLLIN, 0};
  int count = 0;
  if (poll(&ask, 1, static_cast<int>(milliseconds)) <= 0) return std::nullopt;
  if (ioctl(*file_, FIONREAD, &count) != 0) return std::nullopt;
  return count;
}

}  // namespace thresher
