// The socket under one of CivetWeb's connections. CivetWeb tells when it writes, and at no other
// time, that a client has hung up; the socket tells at once. It keeps the socket to itself, so it
// is found among this process' files by the addresses of both its ends.
#ifndef THRESHER_SERVER_CLIENT_SOCKET_H_
#define THRESHER_SERVER_CLIENT_SOCKET_H_

#include <optional>
#include <string>

#include "absl/time/time.h"

struct mg_request_info;

namespace thresher {

/// For the one thread that serves the connection, while it does. Looks for the socket when first
/// asked, at the cost of a system call for each open file.
class ClientSocket {
 public:
  explicit ClientSocket(const mg_request_info& info);

  /// Whether the client has closed its side, or the connection is broken. False where the socket
  /// can't be found.
  bool Closed();

  /// Waits for bytes until the time has passed; how many there are, 0 at the client's end.
  /// Nothing: none came, or the socket can't be found.
  std::optional<int> Await(absl::Duration time);

 private:
  bool Find();

  const std::string peer_;
  const int peer_port_;
  const int port_;
  std::optional<int> file_;  // -1: it was not found.
};

}  // namespace thresher

#endif  // THRESHER_SERVER_CLIENT_SOCKET_H_
