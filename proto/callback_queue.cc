#include "proto/callback_queue.h"

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>

#include "grpc/health/v1/health.grpc.pb.h"

namespace thresher {

namespace {

/// A server with a callback service holds a reference; it listens nowhere.
struct Keeper {
  grpc::health::v1::Health::CallbackService service;
  std::unique_ptr<grpc::Server> server;

  Keeper() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service);
    server = builder.BuildAndStart();
  }
};

[[gnu::used]] Keeper* keeper =
    nullptr;  // Never destroyed. Not a local, so that it is seen to be reachable.

}  // namespace

void KeepCallbackQueue() {
  static std::once_flag once;
  std::call_once(once, [] { keeper = new Keeper; });  // NOLINT: never destroyed
}

}  // namespace thresher
