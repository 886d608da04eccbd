// Decoders over the Open Inference Protocol: a request is one prompt, and its answer is the text,
// at once (ModelInfer) or piece by piece (ModelStreamInfer).
//
// The prompt is "text" BYTES [1] or "input_ids" INT64 or INT32 [1, length]. Outputs:
//   "text" BYTES [1]         what the response's tokens make final: whole characters
//   "token_ids" INT32 [n]    the generated tokens, and with `echo` the prompt's before them
//   "logprobs" FP32 [n]      where `logprobs` is set or the output is asked for; NaN where there is
//                            none (a prompt's first token)
// A stream has a response for each token, and a last one with the text that was still held back, no
// tokens, and how the text ended; `triton_final_response` tells it from the others.
//
// Parameters: those of InferOptions, and as in thresher.v1: `max_tokens`, `temperature`, `top_k`,
// `top_p`, `min_p`, `repetition_penalty`, `seed`, `stop` (a string, or several as a JSON list),
// `ignore_eos`, `logprobs`, `echo`.
#ifndef THRESHER_SERVER_OPEN_INFERENCE_TEXTS_H_
#define THRESHER_SERVER_OPEN_INFERENCE_TEXTS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "inference/open_inference_grpc.pb.h"
#include "server/text_generation.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {

/// Takes the responses to one request. Called by one thread at a time, which must not be kept.
class InferReceiver {
 public:
  virtual ~InferReceiver() = default;
  /// One of several. False: no more until the handle's Resume.
  virtual bool OnResponse(inference::ModelInferResponse response) = 0;
  /// The last call: the last response, or why there is none.
  virtual void OnEnd(absl::StatusOr<inference::ModelInferResponse> last) = 0;
};

struct InferText {
  v1::GenerateRequest request;
  absl::Duration timeout = absl::InfiniteDuration();
  std::vector<std::string> outputs;  // To be sent.
};

/// What a request asks of a decoder. INVALID_ARGUMENT or UNIMPLEMENTED says what is wrong with it;
/// what can only be checked with the model is left to TextGeneration.
absl::StatusOr<InferText> ParseInferText(const inference::ModelInferRequest& request);

/// Makes responses of a text's tokens. `streams`: one for each token, else one for all.
std::shared_ptr<TextReceiver> MakeTextResponses(const inference::ModelInferRequest& request,
                                                const ServedModel& model, const InferText& text,
                                                bool streams,
                                                std::shared_ptr<InferReceiver> receiver);

}  // namespace thresher

#endif  // THRESHER_SERVER_OPEN_INFERENCE_TEXTS_H_
