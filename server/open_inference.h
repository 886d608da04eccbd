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

namespace thresher {

/// Thread-safe.
class OpenInference {
 public:
  using InferDone = std::function<void(absl::StatusOr<inference::ModelInferResponse>)>;

  /// Both must outlive this object.
  OpenInference(Inference* inference, const ModelRepository* repository)
      : inference_(inference), repository_(repository) {}

  /// What a caller's transport knows of a request.
  struct Context {
    absl::Time arrival;
    absl::Time deadline = absl::InfiniteFuture();
    std::shared_ptr<const std::atomic<bool>> cancelled;
  };

  /// Calls `done` once, as Inference does; the request must live until then. One bad row fails it.
  void Infer(const inference::ModelInferRequest& request, const Context& context, InferDone done);

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
  Inference* const inference_;
  const ModelRepository* const repository_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_OPEN_INFERENCE_H_
