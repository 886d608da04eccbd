// The Open Inference Protocol's answers, without its transport: what a model looks like to it, and
// a request's way through Inference.
//
// Outputs follow from the model's head; n rows were asked, t tokens were run, rows after one
// another:
//   embedding                "embedding" FP32 [n, hidden]
//   sequence classification  "logits" FP32 [n, labels], "scores" FP32 [n, labels], "label" BYTES
//   [n] token classification     "logits" FP32 [t, labels], "scores" FP32 [t, labels], "label"
//   BYTES [t],
//                            and the three below
//   question answering       "logits" FP32 [t, 2] (start, end), and
//                            "offsets" INT32 [n + 1]: row i is tokens [offsets[i], offsets[i + 1]);
//                            "token_ids" INT32 [t];
//                            "token_spans" INT32 [t, 3]: which text (0, 1; -1: none), its bytes
//                            [begin, end)
// Token tasks are ragged like everything here, also where all rows happen to be equally long.
// Decoders are another matter: open_inference_texts.h.
#ifndef THRESHER_SERVER_OPEN_INFERENCE_H_
#define THRESHER_SERVER_OPEN_INFERENCE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "inference/open_inference_grpc.pb.h"
#include "server/inference.h"
#include "server/model_repository.h"
#include "server/open_inference_texts.h"

namespace thresher {

/// Thread-safe.
class OpenInference {
 public:
  using InferDone = std::function<void(absl::StatusOr<inference::ModelInferResponse>)>;

  /// What pauses or ends a text early; null where nothing can: then Context::cancelled does.
  using Handle = TextGeneration::Handle;

  /// All must outlive this object.
  OpenInference(Inference* inference, TextGeneration* generation, const ModelRepository* repository)
      : inference_(inference), generation_(generation), repository_(repository) {}

  /// What a caller's transport knows of a request.
  struct Context {
    absl::Time arrival;
    absl::Time deadline = absl::InfiniteFuture();
    std::shared_ptr<const std::atomic<bool>> cancelled;
  };

  /// Calls `done` once, as Inference does; the request must live until then. One bad row fails it.
  /// A decoder's text comes at once, and its inputs leave the request once they have been read.
  Handle Infer(inference::ModelInferRequest* request, const Context& context, InferDone done);
  /// The same, with a decoder's text in pieces as it is made.
  Handle Stream(inference::ModelInferRequest* request, const Context& context,
                std::shared_ptr<InferReceiver> receiver);

  inference::ServerMetadataResponse ServerMetadata() const;
  absl::StatusOr<inference::ModelReadyResponse> ModelReady(
      const inference::ModelReadyRequest& request) const;
  absl::StatusOr<inference::ModelMetadataResponse> ModelMetadata(
      const inference::ModelMetadataRequest& request) const;
  absl::StatusOr<inference::ModelConfigResponse> ModelConfig(
      const inference::ModelConfigRequest& request) const;
  absl::StatusOr<inference::ModelStatisticsResponse> ModelStatistics(
      const inference::ModelStatisticsRequest& request) const;
  inference::RepositoryIndexResponse RepositoryIndex(
      const inference::RepositoryIndexRequest& request) const;

 private:
  Handle Start(inference::ModelInferRequest* message, const Context& context, bool streams,
               std::shared_ptr<InferReceiver> receiver);
  /// On an encoder.
  void InferRowsOf(const inference::ModelInferRequest& request, const Context& context,
                   const std::shared_ptr<const ServedModel>& model, size_t count,
                   std::shared_ptr<InferReceiver> receiver);

  Inference* const inference_;
  TextGeneration* const generation_;
  const ModelRepository* const repository_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_OPEN_INFERENCE_H_
