// grpc.health.v1.Health: what gRPC clients, Kubernetes and load balancers ask.
//
// Our own, because a Watch that a client holds open would keep gRPC's shutdown waiting until its
// deadline: this one ends its watches when told to.
#ifndef THRESHER_SERVER_HEALTH_SERVICE_H_
#define THRESHER_SERVER_HEALTH_SERVICE_H_

#include <functional>
#include <set>
#include <string>

#include "backend/tensor/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace thresher {

/// All services of a server have one status. Thread-safe.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  /// Answers for the server as a whole ("") and for the services of these names; a Check of any
  /// other is NOT_FOUND, a Watch of it SERVICE_UNKNOWN. `ready` says whether the models can serve.
  HealthService(std::set<std::string> services, std::function<bool()> ready);

  /// SERVING when this is true and `ready()` is too. At first it is false.
  void SetServing(bool serving);
  /// To be called when what `ready()` says may have changed.
  void Refresh();
  /// What Check says.
  bool serving();

  /// Ends all watches, and new ones at once, with UNAVAILABLE.
  void EndWatches();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  class Watcher;

  void Update();  // With mutex_ held.

  const std::set<std::string> services_;
  const std::function<bool()> ready_;
  Mutex mutex_;
  bool wanted_ = false;
  bool serving_ = false;
  bool ending_ = false;
  std::set<Watcher*> watchers_;  // Those that are open; each owns itself.
};

}  // namespace thresher

#endif  // THRESHER_SERVER_HEALTH_SERVICE_H_
