#include "server/open_inference_service.h"

#include <string>
#include <type_traits>
#include <utility>

#include "backend/tensor/status.h"
#include "server/grpc_call.h"

namespace thresher {
namespace {

/// A call that is answered at once: `answer(request)` gives a response or the status of failure.
template <typename Request, typename Response, typename Answer>
grpc::ServerUnaryReactor* Serve(grpc::CallbackServerContext* context, const grpc::ByteBuffer* in,
                                grpc::ByteBuffer* out, const Answer& answer) {
  auto* call = new UnaryCall<Request, Response>(context, out);
  absl::Status status = call->Parse(*in);
  if (status.ok()) {
    absl::StatusOr<Response> response = answer(call->request());
    status = response.status();
    if (response.ok()) *call->response() = *std::move(response);
  }
  call->Finish(status);
  return call;
}

}  // namespace

OpenInferenceService::OpenInferenceService(Inference* inference, TextGeneration* generation,
                                           ModelRepository* repository, std::function<bool()> ready)
    : inference_(inference),
      repository_(repository),
      ready_(std::move(ready)),
      open_inference_(inference, generation, repository),
      streams_(&open_inference_),
      repository_thread_(1) {}

OpenInferenceService::Reactor* OpenInferenceService::ServerLive(Context* context, const Bytes* in,
                                                                Bytes* out) {
  return Serve<inference::ServerLiveRequest, inference::ServerLiveResponse>(
      context, in, out, [](const inference::ServerLiveRequest&) {
        inference::ServerLiveResponse response;
        response.set_live(true);
        return response;
      });
}

OpenInferenceService::Reactor* OpenInferenceService::ServerReady(Context* context, const Bytes* in,
                                                                 Bytes* out) {
  return Serve<inference::ServerReadyRequest, inference::ServerReadyResponse>(
      context, in, out, [this](const inference::ServerReadyRequest&) {
        inference::ServerReadyResponse response;
        response.set_ready(ready_() && !inference_->draining());
        return response;
      });
}

OpenInferenceService::Reactor* OpenInferenceService::ModelReady(Context* context, const Bytes* in,
                                                                Bytes* out) {
  return Serve<inference::ModelReadyRequest, inference::ModelReadyResponse>(
      context, in, out,
      [this](const auto& request) { return open_inference_.ModelReady(request); });
}

OpenInferenceService::Reactor* OpenInferenceService::ServerMetadata(Context* context,
                                                                    const Bytes* in, Bytes* out) {
  return Serve<inference::ServerMetadataRequest, inference::ServerMetadataResponse>(
      context, in, out, [this](const auto&) { return open_inference_.ServerMetadata(); });
}

OpenInferenceService::Reactor* OpenInferenceService::ModelMetadata(Context* context,
                                                                   const Bytes* in, Bytes* out) {
  return Serve<inference::ModelMetadataRequest, inference::ModelMetadataResponse>(
      context, in, out,
      [this](const auto& request) { return open_inference_.ModelMetadata(request); });
}

OpenInferenceService::Reactor* OpenInferenceService::ModelConfig(Context* context, const Bytes* in,
                                                                 Bytes* out) {
  return Serve<inference::ModelConfigRequest, inference::ModelConfigResponse>(
      context, in, out,
      [this](const auto& request) { return open_inference_.ModelConfig(request); });
}

OpenInferenceService::Reactor* OpenInferenceService::ModelStatistics(Context* context,
                                                                     const Bytes* in, Bytes* out) {
  return Serve<inference::ModelStatisticsRequest, inference::ModelStatisticsResponse>(
      context, in, out,
      [this](const auto& request) { return open_inference_.ModelStatistics(request); });
}

OpenInferenceService::Reactor* OpenInferenceService::ModelInfer(Context* context, const Bytes* in,
                                                                Bytes* out) {
  using Call = UnaryCall<inference::ModelInferRequest, inference::ModelInferResponse>;
  auto* call = new Call(context, out);
  if (absl::Status status = call->Parse(*in); !status.ok()) {
    call->Finish(inference_->Refuse(Method::kModelInfer, "", 1, status));
    return call;
  }
  // The call may be answered, and so be gone, before Infer has returned.
  const auto when_cancelled = call->when_cancelled();
  const auto handle = open_inference_.Infer(
      call->mutable_request(), {call->arrival(), call->deadline(), call->cancelled()},
      [call](absl::StatusOr<inference::ModelInferResponse> response) {
        const absl::Status status = response.status();
        if (response.ok()) *call->response() = *std::move(response);
        call->Finish(status);
      });
  if (handle != nullptr) when_cancelled->Set([handle] { handle->Cancel(); });
  return call;
}

InferStreams::Reactor* OpenInferenceService::ModelStreamInfer(Context* context) {
  return streams_.Open(context);
}

OpenInferenceService::Reactor* OpenInferenceService::RepositoryIndex(Context* context,
                                                                     const Bytes* in, Bytes* out) {
  return Serve<inference::RepositoryIndexRequest, inference::RepositoryIndexResponse>(
      context, in, out,
      [this](const auto& request) { return open_inference_.RepositoryIndex(request); });
}

template <typename Request, typename Response, typename Work>
OpenInferenceService::Reactor* OpenInferenceService::ChangeRepository(Context* context,
                                                                      const Bytes* in, Bytes* out,
                                                                      Work work) {
  auto* call = new UnaryCall<Request, Response>(context, out);
  absl::Status status = call->Parse(*in);
  if (status.ok() && inference_->draining()) status = Unavailable("the server is draining");
  constexpr bool kLoads = std::is_same_v<Request, inference::RepositoryModelLoadRequest>;
  if (kLoads && status.ok() && call->request().parameters_size() > 0) {
    status = Unimplemented(
        "parameter '{}': models are loaded as their directory and this server's "
        "configuration say, without parameters",
        call->request().parameters().begin()->first);
  }
  if (status.ok() && call->request().model_name().empty()) {
    status = InvalidArgument("model_name is empty");
  }
  if (!status.ok()) {
    call->Finish(status);
    return call;
  }
  repository_thread_.Run([call, work] {
    // The caller may have gone while others were loaded.
    call->Finish(call->cancelled()->load() ? Cancelled("the caller cancelled the call")
                                           : work(call->request().model_name()));
  });
  return call;
}

OpenInferenceService::Reactor* OpenInferenceService::RepositoryModelLoad(Context* context,
                                                                         const Bytes* in,
                                                                         Bytes* out) {
  return ChangeRepository<inference::RepositoryModelLoadRequest,
                          inference::RepositoryModelLoadResponse>(
      context, in, out, [this](const std::string& name) { return repository_->Load(name); });
}

OpenInferenceService::Reactor* OpenInferenceService::RepositoryModelUnload(Context* context,
                                                                           const Bytes* in,
                                                                           Bytes* out) {
  return ChangeRepository<inference::RepositoryModelUnloadRequest,
                          inference::RepositoryModelUnloadResponse>(
      context, in, out, [this](const std::string& name) { return repository_->Unload(name); });
}

}  // namespace thresher
