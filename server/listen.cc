#include "server/listen.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

in_port_t& PortOf(sockaddr* address) {
  return address->sa_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(address)->sin6_port
                                        : reinterpret_cast<sockaddr_in*>(address)->sin_port;
}

/// Adds to `sockets`; sets a port of 0.
absl::Status ListenOnAll(addrinfo* found, Address* address, std::vector<int>* sockets) {
  const auto error = [address](const char* reason) {
    return Unavailable("can't listen on {}: {}", ToString(*address), reason);
  };
  for (addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const int file = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    // A machine without IPv6 may still have names with such an address.
    const bool others = at->ai_next != nullptr || !sockets->empty();
    if (file < 0 && errno == EAFNOSUPPORT && others) continue;
    if (file < 0) return error(std::strerror(errno));
    sockets->push_back(file);
    const int yes = 1;
    const int no = 0;
    setsockopt(file, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (at->ai_family == AF_INET6) {
      setsockopt(file, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
    }
    PortOf(at->ai_addr) = htons(static_cast<uint16_t>(address->port));
    if (bind(file, at->ai_addr, at->ai_addrlen) != 0 || listen(file, SOMAXCONN) != 0) {
      return error(std::strerror(errno));
    }
    sockaddr_storage bound = {};
    socklen_t size = sizeof(bound);
    getsockname(file, reinterpret_cast<sockaddr*>(&bound), &size);
    address->port = ntohs(PortOf(reinterpret_cast<sockaddr*>(&bound)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<int>> ListenOn(Address* address) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(address->port);
  if (const int code = getaddrinfo(address->host.c_str(), port.c_str(), &hints, &found);
      code != 0) {
    return Unavailable("can't listen on {}: {}", ToString(*address), gai_strerror(code));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(found, &freeaddrinfo);
  std::vector<int> sockets;
  const absl::Status status = ListenOnAll(found, address, &sockets);
  if (status.ok()) return sockets;
  for (const int socket : sockets) close(socket);
  return status;
}

}  // namespace thresher
