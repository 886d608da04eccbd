#include "server/grpc_access_log.h"

#include <grpcpp/server_context.h>

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "backend/scheduler/clock.h"

namespace thresher {
namespace {

using grpc::experimental::InterceptionHookPoints;
using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

std::string_view Header(const Metadata& metadata, const char* name) {
  const auto found = metadata.find(name);
  if (found == metadata.end()) return {};
  return {found->second.data(), found->second.size()};
}

class Call final : public grpc::experimental::Interceptor {
 public:
  Call(const AccessLog& log, const Authorizer* authorizer, grpc::experimental::ServerRpcInfo* info)
      : log_(log), authorizer_(authorizer), info_(info) {}

  /// A call that is cancelled ends without a status.
  ~Call() override {
    if (begun_ && !ended_) End("CANCELLED");
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      Begin(*methods->GetRecvInitialMetadata());
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      auto& headers = *methods->GetSendInitialMetadata();
      headers.emplace("x-request-id", identity_.request_id);
      if (std::string trace = identity_.TraceResponse(); !trace.empty()) {
        headers.emplace("traceresponse", std::move(trace));
      }
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      // The canonical codes have the same numbers on both sides.
      const auto code = static_cast<absl::StatusCode>(methods->GetSendStatus().error_code());
      End(absl::StatusCodeToString(code));
    }
    methods->Proceed();
  }

 private:
  void Begin(const Metadata& metadata) {
    begun_ = true;
    begin_ = Clock::Real()->Now();
    method_ = info_->method();
    identity_ =
        log_.Begin(method_, Header(metadata, "x-request-id"), Header(metadata, "traceparent"));
    if (!log_.Wants(identity_)) return;
    peer_ = info_->server_context()->peer();
    if (authorizer_ != nullptr) caller_ = authorizer_->CallerOf(Header(metadata, "authorization"));
  }

  void End(std::string_view status) {
    ended_ = true;
    if (!log_.Wants(identity_)) return;
    log_.End({.front = "grpc",
              .method = method_,
              .status = status,
              .time = Clock::Real()->Now() - begin_,
              .identity = identity_,
              .caller = caller_,
              .peer = peer_});
  }

  const AccessLog& log_;
  const Authorizer* const authorizer_;
  grpc::experimental::ServerRpcInfo* const info_;
  bool begun_ = false;
  bool ended_ = false;
  absl::Time begin_;
  CallIdentity identity_;
  std::string method_, peer_, caller_;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  Factory(const AccessLog& log, const Authorizer* authorizer)
      : log_(log), authorizer_(authorizer) {}
  /// gRPC owns what this returns.
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new Call(log_, authorizer_, info);
  }

 private:
  const AccessLog log_;
  const Authorizer* const authorizer_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeGrpcAccessLog(
    const AccessLog& log, const Authorizer* authorizer) {
  return std::make_unique<Factory>(log, authorizer);
}

}  // namespace thresher
