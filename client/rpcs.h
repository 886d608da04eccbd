// Which response belongs to which request: the list of all unary calls that Client can make.
#ifndef THRESHER_CLIENT_RPCS_H_
#define THRESHER_CLIENT_RPCS_H_

#include "grpc/health/v1/health.pb.h"
#include "inference/open_inference_grpc.pb.h"
#include "thresher/v1/thresher.pb.h"

/// Applies X(service, package namespace, method, request, response) to each unary call.
#define THRESHER_UNARY_RPCS(X)                                                                \
  X(thresher, ::thresher::v1, Classify, ClassifyRequest, ClassifyResponse)                    \
  X(thresher, ::thresher::v1, Embed, EmbedRequest, EmbedResponse)                             \
  X(thresher, ::thresher::v1, TokenClassify, TokenClassifyRequest, TokenClassifyResponse)     \
  X(thresher, ::thresher::v1, Answer, AnswerRequest, AnswerResponse)                          \
  X(thresher, ::thresher::v1, Tokenize, TokenizeRequest, TokenizeResponse)                    \
  X(thresher, ::thresher::v1, Score, ScoreRequest, ScoreResponse)                             \
  X(inference, ::inference, ServerLive, ServerLiveRequest, ServerLiveResponse)                \
  X(inference, ::inference, ServerReady, ServerReadyRequest, ServerReadyResponse)             \
  X(inference, ::inference, ModelReady, ModelReadyRequest, ModelReadyResponse)                \
  X(inference, ::inference, ServerMetadata, ServerMetadataRequest, ServerMetadataResponse)    \
  X(inference, ::inference, ModelMetadata, ModelMetadataRequest, ModelMetadataResponse)       \
  X(inference, ::inference, ModelInfer, ModelInferRequest, ModelInferResponse)                \
  X(inference, ::inference, ModelConfig, ModelConfigRequest, ModelConfigResponse)             \
  X(inference, ::inference, ModelStatistics, ModelStatisticsRequest, ModelStatisticsResponse) \
  X(inference, ::inference, RepositoryIndex, RepositoryIndexRequest, RepositoryIndexResponse) \
  X(inference, ::inference, RepositoryModelLoad, RepositoryModelLoadRequest,                  \
    RepositoryModelLoadResponse)                                                              \
  X(inference, ::inference, RepositoryModelUnload, RepositoryModelUnloadRequest,              \
    RepositoryModelUnloadResponse)                                                            \
  X(health, ::grpc::health::v1, Check, HealthCheckRequest, HealthCheckResponse)

namespace thresher::client {

/// Rpc<v1::ClassifyRequest>::Response is v1::ClassifyResponse.
template <typename Request>
struct Rpc;

#define THRESHER_DEFINE_RPC(service, package, method, request, response) \
  template <>                                                            \
  struct Rpc<package::request> {                                         \
    using Response = package::response;                                  \
  };
THRESHER_UNARY_RPCS(THRESHER_DEFINE_RPC)
#undef THRESHER_DEFINE_RPC

}  // namespace thresher::client

#endif  // THRESHER_CLIENT_RPCS_H_
