// Ends TLS in front of a listener of this process that speaks plain text on the loopback device.
//
// For CivetWeb: that of Debian loads OpenSSL by the names of version 1.1 and can't find all of it
// in version 3, and it could not take a new certificate without a restart.
#ifndef THRESHER_SERVER_TLS_FRONT_H_
#define THRESHER_SERVER_TLS_FRONT_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/address.h"
#include "server/tls_files.h"

namespace thresher {

struct TlsFrontOptions {
  std::string listen;                          // HOST:PORT; port 0 picks a free one.
  const TlsFiles* tls = nullptr;               // Must outlive the front.
  int max_connections = 256;                   // More wait in the kernel's queue.
  absl::Duration timeout = absl::Seconds(10);  // For a handshake; to take what is left at the end.
};

/// One thread, and two buffers of 16 KiB for each connection. TLS 1.2 or newer, HTTP/1.1 by ALPN; a
/// new connection gets the identity that is current. Where it has client authorities, a client may
/// show a certificate of theirs, and one that shows another can't connect. Thread-safe.
class TlsFront {
 public:
  /// UNAVAILABLE: can't listen there, with the reason.
  static absl::StatusOr<std::unique_ptr<TlsFront>> Start(const TlsFrontOptions& options);
  /// Breaks all connections.
  ~TlsFront();
  TlsFront(const TlsFront&) = delete;
  TlsFront& operator=(const TlsFront&) = delete;

  /// Begins to accept, and forwards to this port of 127.0.0.1.
  void Forward(int port);

  const Address& address() const;

  struct Peer {
    std::string address;
    std::string
        certificate;  // The subject of the client's, which was verified; empty: it has none.
  };
  /// The client of the connection that the listener behind sees come from this port of 127.0.0.1.
  /// Nothing: it is not of this front's making.
  std::optional<Peer> PeerOf(int port) const;

 private:
  class Impl;
  explicit TlsFront(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_TLS_FRONT_H_
