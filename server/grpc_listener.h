// Accepts the connections that gRPC then serves.
//
// Ours, because gRPC's own has no bound on connections, and stops to accept for ever once the
// process has run out of file descriptors.
#ifndef THRESHER_SERVER_GRPC_LISTENER_H_
#define THRESHER_SERVER_GRPC_LISTENER_H_

#include <grpcpp/server_builder.h>
#include <sys/types.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/address.h"

namespace thresher {

class GrpcListener {
 public:
  using Acceptor = grpc::experimental::ExternalConnectionAcceptor;

  struct Options {
    std::string address;                    // HOST:PORT; port 0 picks a free one.
    int max_connections = 0;                // 0: as many as the limit of open files allows.
    std::function<void()> refused = [] {};  // A connection was closed for being one too many.
  };

  /// Binds and listens. UNAVAILABLE when it can't, with the kernel's reason.
  static absl::StatusOr<std::unique_ptr<GrpcListener>> Listen(Options options);
  ~GrpcListener();  // Stops.
  GrpcListener(const GrpcListener&) = delete;
  GrpcListener& operator=(const GrpcListener&) = delete;

  /// Begins to accept; the server must run and outlive this object.
  void Start(std::unique_ptr<Acceptor> acceptor);
  /// Stops to listen; connections stay. Harmless when repeated.
  void Stop();

  int port() const { return address_.port; }
  /// HOST:PORT, with the port that was really taken.
  std::string address() const { return ToString(address_); }

  /// The limit that holds.
  int max_connections() const { return max_connections_; }
  /// Connections that are open, by the last look, which is at most a second old.
  int connections() const { return open_count_; }

 private:
  explicit GrpcListener(Options options, Address address);

  void Loop();
  void Accept(int listener);
  void Take(int listener, int connection);
  void CountOpen();

  const Options options_;
  Address address_;
  int max_connections_ = 0;
  std::vector<int> listeners_;
  int stop_ = -1;
  std::unique_ptr<Acceptor> acceptor_;
  std::thread thread_;

  // The thread's alone. gRPC closes connections by itself: one is gone when its descriptor is not
  // the same socket any more.
  std::map<int, ino_t> open_;
  absl::Time counted_ = absl::InfinitePast();
  absl::Time next_line_ = absl::InfinitePast();
  absl::Time rest_until_ = absl::InfinitePast();  // No descriptors left.

  std::atomic<int> open_count_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_GRPC_LISTENER_H_
