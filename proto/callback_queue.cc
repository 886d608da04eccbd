#include "proto/callback_queue.h"

#include <grpcpp/grpcpp.h>

#include "grpc/health/v1/health.grpc.pb.h"

namespace thresher {

void KeepCallbackQueue() {
  // A server with a callback service holds a reference; it listens nowhere. Neither is destroyed.
  [[maybe_unused]] static const grpc::Server* const keeper = [] {
    static auto& service = *new grpc::health::v1::Health::CallbackService;
    grpc::ServerBuilder builder;
    builder.RegisterService(&service);
    return builder.BuildAndStart().release();
  }();
}

}  // namespace thresher
