#include "server/address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <system_error>

#include "backend/tensor/status.h"

namespace thresher {

absl::StatusOr<Address> ParseAddress(std::string_view text) {
  const auto error = [text](std::string_view what) {
    return InvalidArgument("'{}': {}; expected HOST:PORT, such as 127.0.0.1:8001", text, what);
  };
  // Commas and spaces would be lists to the libraries that bind.
  if (text.find_first_of(", \t\r\n/") != std::string_view::npos) return error("bad host");
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return error("no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.empty()) {
    return error("no host (0.0.0.0 is all of IPv4, [::] is all)");
  } else if (host.find(':') != std::string_view::npos) {
    return error("an IPv6 address must be in brackets");
  }
  if (host.find_first_of("[]") != std::string_view::npos) return error("bad host");

  Address address{std::string(host), 0};
  const auto [end, code] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (port.empty() || code != std::errc() || end != port.data() + port.size() || address.port < 0 ||
      address.port > 65535) {
    return error("the port must be a number from 0 (any free one) to 65535");
  }
  return address;
}

std::string ToString(const Address& address) {
  return address.host.find(':') == std::string::npos
             ? fmt::format("{}:{}", address.host, address.port)
             : fmt::format("[{}]:{}", address.host, address.port);
}

absl::Status CheckBind(const std::string& address) {
  THRESHER_ASSIGN_OR_RETURN(const Address parsed, ParseAddress(address));
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(parsed.port);
  if (const int code = getaddrinfo(parsed.host.c_str(), port.c_str(), &hints, &found); code != 0) {
    return Unavailable("can't listen on {}: {}", address, gai_strerror(code));
  }
  absl::Status status;
  for (const addrinfo* at = found; at != nullptr && status.ok(); at = at->ai_next) {
    const int file = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (file < 0) continue;
    const int yes = 1;
    setsockopt(file, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (bind(file, at->ai_addr, at->ai_addrlen) != 0 || listen(file, 1) != 0) {
      status = Unavailable("can't listen on {}: {}", address, std::strerror(errno));
    }
    close(file);
  }
  freeaddrinfo(found);
  return status;
}

}  // namespace thresher
