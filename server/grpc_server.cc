#include "server/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "backend/scheduler/clock.h"
#include "backend/tensor/status.h"
#include "proto/callback_queue.h"
#include "server/grpc_access_log.h"
#include "server/grpc_credentials.h"
#include "server/grpc_listener.h"
#include "server/health_service.h"
#include "server/inference.h"
#include "server/open_inference_service.h"
#include "server/security_metrics.h"
#include "server/text_generation.h"
#include "server/thresher_service.h"

namespace thresher {
namespace {

/// What gRPC may hold for all connections together before it breaks off calls. A message is refused
/// for its size only when it is whole: until then nothing else bounds one that claims to be huge.
size_t MemoryQuota(const GrpcServerOptions& options) {
  constexpr size_t kLeast = size_t{256} << 20;
  constexpr size_t kMessages = 16;
  return std::max(kLeast, kMessages * static_cast<size_t>(options.max_message_bytes));
}

/// Settings of the transport.
void Configure(const GrpcServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(options.max_message_bytes);
  builder->SetMaxSendMessageSize(-1);  // Answers are bounded by what was asked.
  builder->SetResourceQuota(grpc::ResourceQuota("thresher").Resize(MemoryQuota(options)));
  if (options.max_streams > 0) {
    builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams);
  }
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16 << 10);
  // A connection that has not said what it is by then is closed.
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 20'000);
  // Clients may ping often enough to keep an idle connection through a NAT; dead ones are found in
  // two minutes.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 100'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
}

}  // namespace

class GrpcServer::Impl {
 public:
  Impl(const GrpcServerOptions& options, ModelRepository* repository, Scheduler* scheduler,
       Metrics* metrics)
      : options_(options),
        metrics_(metrics),
        inference_(
            {.max_inputs = options.max_inputs,
             .elastic = options.elastic,
             .shadow_every = options.shadow_every},
            [repository](std::string_view name, std::string_view version) {
              return repository->Find(name, version);
            },
            scheduler, metrics),
        generation_(&inference_),
        thresher_(&inference_, &generation_),
        health_(std::make_shared<HealthService>(
            std::set<std::string>{v1::Thresher::service_full_name(),
                                  inference::GRPCInferenceService::service_full_name()},
            [repository] { return repository->AllReady(); })),
        open_inference_(&inference_, &generation_, repository,
                        [this] { return health_->serving(); }) {
    // The repository may outlive this server and have changes under way.
    repository->OnChange([health = std::weak_ptr<HealthService>(health_)] {
      if (const auto alive = health.lock()) alive->Refresh();
    });
  }

  ~Impl() { Shutdown(absl::InfinitePast()); }

  absl::Status Listen() {
    KeepCallbackQueue();
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    Configure(options_, &builder);
    THRESHER_ASSIGN_OR_RETURN(listener_, GrpcListener::Listen(ListenerOptions()));
    auto acceptor = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        MakeGrpcCredentials(options_.tls, options_.authorizer));
    builder.RegisterService(&thresher_);
    builder.RegisterService(&open_inference_);
    builder.RegisterService(health_.get());
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> logs;
    logs.push_back(MakeGrpcAccessLog(options_.access_log, options_.authorizer));
    builder.experimental().SetInterceptorCreators(std::move(logs));
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return Internal("gRPC does not start; its log says why");
    listener_->Start(std::move(acceptor));
    return absl::OkStatus();
  }

  int port() const { return listener_->port(); }
  std::string address() const { return listener_->address(); }
  int connections() const { return listener_->connections(); }

  Inference* inference() { return &inference_; }
  TextGeneration* generation() { return &generation_; }

  void SetServing(bool serving) { health_->SetServing(serving); }
  void RefuseNewWork() { inference_.RefuseNewWork(); }

  void Shutdown(absl::Time deadline) {
    RefuseNewWork();
    health_->EndWatches();
    open_inference_.EndStreams();
    if (server_ == nullptr) return;
    listener_->Stop();
    // gRPC counts in wall time.
    server_->Shutdown(absl::ToChronoTime(absl::Now() + (deadline - Clock::Real()->Now())));
  }

 private:
  GrpcListener::Options ListenerOptions() const {
    return {.address = options_.listen,
            .max_connections = options_.max_connections,
            .refused = [&security = metrics_->security()] { security.OnConnectionRefused(); }};
  }

  const GrpcServerOptions options_;
  Metrics* const metrics_;
  Inference inference_;
  TextGeneration generation_;
  ThresherService thresher_;
  std::shared_ptr<HealthService> health_;
  OpenInferenceService open_inference_;
  std::unique_ptr<grpc::Server> server_;  // Dies before the services.
  std::unique_ptr<GrpcListener> listener_;
};

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                              ModelRepository* repository,
                                                              Scheduler* scheduler,
                                                              Metrics* metrics) {
  auto impl = std::make_unique<Impl>(options, repository, scheduler, metrics);
  THRESHER_RETURN_IF_ERROR(impl->Listen());
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrpcServer::~GrpcServer() = default;

int GrpcServer::port() const { return impl_->port(); }
std::string GrpcServer::address() const { return impl_->address(); }
int GrpcServer::connections() const { return impl_->connections(); }
Inference* GrpcServer::inference() { return impl_->inference(); }
TextGeneration* GrpcServer::generation() { return impl_->generation(); }
void GrpcServer::SetServing(bool serving) { impl_->SetServing(serving); }
void GrpcServer::RefuseNewWork() { impl_->RefuseNewWork(); }
void GrpcServer::Shutdown(absl::Time deadline) { impl_->Shutdown(deadline); }

}  // namespace thresher
