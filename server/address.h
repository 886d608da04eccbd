// HOST:PORT, as the configuration names where to listen.
#ifndef THRESHER_SERVER_ADDRESS_H_
#define THRESHER_SERVER_ADDRESS_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace thresher {

/// Where to listen. `host` is a name or a numeric address, without the brackets of IPv6.
struct Address {
  std::string host;
  int port = 0;  // 0: any free one.
};
/// "HOST:PORT" or "[IPV6]:PORT".
absl::StatusOr<Address> ParseAddress(std::string_view text);
/// The inverse of ParseAddress.
std::string ToString(const Address& address);
/// Whether only this machine can connect there: 127.0.0.0/8, ::1, localhost.
bool IsLoopback(const Address& address);

}  // namespace thresher

#endif  // THRESHER_SERVER_ADDRESS_H_
