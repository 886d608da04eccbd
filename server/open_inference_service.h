// inference.GRPCInferenceService on gRPC.
#ifndef THRESHER_SERVER_OPEN_INFERENCE_SERVICE_H_
#define THRESHER_SERVER_OPEN_INFERENCE_SERVICE_H_

#include <functional>

#include "inference/open_inference_grpc.grpc.pb.h"
#include "server/infer_stream.h"
#include "server/open_inference.h"
#include "server/worker_threads.h"

namespace thresher {

namespace internal {

// Every method takes and gives bytes, which server/grpc_message.h turns into messages.
using Rpc = inference::GRPCInferenceService;
using OpenInferenceHealth = Rpc::WithRawCallbackMethod_ServerLive<
    Rpc::WithRawCallbackMethod_ServerReady<Rpc::WithRawCallbackMethod_ModelReady<Rpc::Service>>>;
using OpenInferenceFacts = Rpc::WithRawCallbackMethod_ServerMetadata<
    Rpc::WithRawCallbackMethod_ModelMetadata<Rpc::WithRawCallbackMethod_ModelConfig<
        Rpc::WithRawCallbackMethod_ModelStatistics<OpenInferenceHealth>>>>;
using OpenInferenceRepository =
    Rpc::WithRawCallbackMethod_RepositoryIndex<Rpc::WithRawCallbackMethod_RepositoryModelLoad<
        Rpc::WithRawCallbackMethod_RepositoryModelUnload<OpenInferenceFacts>>>;
using OpenInferenceBase = Rpc::WithRawCallbackMethod_ModelInfer<
    Rpc::WithRawCallbackMethod_ModelStreamInfer<OpenInferenceRepository>>;

}  // namespace internal

class OpenInferenceService final : public internal::OpenInferenceBase {
 public:
  /// All must outlive the service. `ready` says whether the server is.
  OpenInferenceService(Inference* inference, TextGeneration* generation,
                       ModelRepository* repository, std::function<bool()> ready);

  void EndStreams() { streams_.EndAll(); }

  using Context = grpc::CallbackServerContext;
  using Bytes = grpc::ByteBuffer;
  using Reactor = grpc::ServerUnaryReactor;
  Reactor* ServerLive(Context* context, const Bytes* in, Bytes* out) override;
  Reactor* ServerReady(Context* context, const Bytes* in, Bytes* out) override;
  Reactor* ModelReady(Context* context, const Bytes* in, Bytes* out) override;
  Reactor* ServerMetadata(Context* context, const Bytes* in, Bytes* out) override;
  Reactor* ModelMetadata(Context* context, const Bytes* in, Bytes* out) override;
  Reactor* ModelConfig(Context* context, const Bytes* in, Bytes* out) override;
  Reactor* ModelStatistics(Context* context, const Bytes* in, Bytes* out) override;
  Reactor* ModelInfer(Context* context, const Bytes* in, Bytes* out) override;
  InferStreams::Reactor* ModelStreamInfer(Context* context) override;
  Reactor* RepositoryIndex(Context* context, const Bytes* in, Bytes* out) override;
  Reactor* RepositoryModelLoad(Context* context, const Bytes* in, Bytes* out) override;
  Reactor* RepositoryModelUnload(Context* context, const Bytes* in, Bytes* out) override;

 private:
  /// Answers with what `work(model_name)` says, on the repository's thread.
  template <typename Request, typename Response, typename Work>
  Reactor* ChangeRepository(Context* context, const Bytes* in, Bytes* out, Work work);

  Inference* const inference_;
  ModelRepository* const repository_;
  const std::function<bool()> ready_;
  OpenInference open_inference_;
  InferStreams streams_;
  WorkerThreads repository_thread_;  // Loads take long; one after the other is enough.
};

}  // namespace thresher

#endif  // THRESHER_SERVER_OPEN_INFERENCE_SERVICE_H_
