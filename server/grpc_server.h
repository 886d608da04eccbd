// The gRPC front: thresher.v1.Thresher, inference.GRPCInferenceService, grpc.health.v1.Health and
// reflection on one port.
//
// Life: Start (serves, but reports NOT_SERVING) -> SetServing(true) -> ... -> SetServing(false) ->
// RefuseNewWork -> Shutdown. Thread-safe; no method but Shutdown and the destructor waits.
#ifndef THRESHER_SERVER_GRPC_SERVER_H_
#define THRESHER_SERVER_GRPC_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/scheduler/scheduler.h"
#include "server/access_log.h"
#include "server/authorizer.h"
#include "server/metrics.h"
#include "server/model_repository.h"
#include "server/tls_files.h"

namespace thresher {

class Inference;
class TextGeneration;

struct GrpcServerOptions {
  std::string listen = "127.0.0.1:8001";  // HOST:PORT; port 0 picks a free one.
  int max_message_bytes = 16 << 20;       // A larger request is RESOURCE_EXHAUSTED.
  int max_inputs = 256;                   // Inputs (rows) in one call.
  bool elastic = false;                   // Inference::Options::elastic.
  int max_connections = 0;                // More are closed at once; 0: as open files allow.
  int max_streams = 0;                    // Calls at a time on one connection; 0: no bound.
  const TlsFiles* tls = nullptr;          // Null: plain text.
  Authorizer* authorizer = nullptr;       // Null: everybody may call.
  AccessLog access_log = AccessLog(/*info=*/false);
  int32_t shadow_every = 0;  // Inference::Options::shadow_every.
};

class GrpcServer {
 public:
  /// Starts to serve. The arguments, and what the options point to, must outlive the server.
  /// UNAVAILABLE, with the reason, if it can't listen there.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcServerOptions& options,
                                                           ModelRepository* repository,
                                                           Scheduler* scheduler, Metrics* metrics);
  /// Shuts down at once.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  int port() const;
  /// HOST:PORT, with the port that was really taken.
  std::string address() const;
  /// Connections that are open, as of the last second.
  int connections() const;

  /// What calls are handed to, whatever brings them; theirs until the server dies.
  Inference* inference();
  TextGeneration* generation();

  /// What health and readiness report: SERVING when `serving` and every configured model is ready.
  /// Calls are answered either way.
  void SetServing(bool serving);

  /// From now on every call for work is UNAVAILABLE; what was accepted is still answered.
  void RefuseNewWork();

  /// Refuses new work and connections, ends health watches and streams that have nothing in flight,
  /// lets what was accepted finish until `deadline` (on Clock::Real()), cancels the rest, and
  /// returns when no call is left. The scheduler must still be running. Harmless when repeated.
  void Shutdown(absl::Time deadline);

 private:
  class Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_GRPC_SERVER_H_
