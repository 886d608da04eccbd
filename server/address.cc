#include "server/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <charconv>
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

bool IsLoopback(const Address& address) {
  if (address.host == "localhost") return true;
  in_addr v4 = {};
  if (inet_pton(AF_INET, address.host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6 = {};
  return inet_pton(AF_INET6, address.host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace thresher
