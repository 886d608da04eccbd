// OpenAI's embeddings and completions between their JSON and thresher.v1's messages. Knows nothing
// of models and transports.
//
// What the API's fields mean is OpenAI's, defaults included (a completion has at most 16 tokens and
// temperature 1). Of its own, as in thresher.v1: `sparsity` (a policy), `max_quality_loss`
// (embeddings), `truncate`, `priority`, and for completions `top_k`, `min_p`, `repetition_penalty`
// and `ignore_eos`. What is not done here is refused: fields that are not known, more than one
// completion, penalties, biases, suffixes.
#ifndef THRESHER_SERVER_OPENAI_JSON_H_
#define THRESHER_SERVER_OPENAI_JSON_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/json.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {

struct EmbeddingsRequest {
  v1::EmbedRequest request;
  bool base64 = false;  // Else lists of numbers.
};
/// INVALID_ARGUMENT begins with the field that is wrong.
absl::StatusOr<EmbeddingsRequest> ReadEmbeddings(std::string_view body);
/// Every result is a good one.
Json EmbeddingsJson(const v1::EmbedResponse& response, bool base64);

struct CompletionRequest {
  v1::GenerateRequest request;
  bool stream = false;
  bool include_usage = false;  // A stream's last chunk but one tells it.
};
absl::StatusOr<CompletionRequest> ReadCompletion(std::string_view body);

/// One completion, or the chunks of its stream.
class CompletionWriter {
 public:
  /// `id` and `created` (seconds since the epoch) stand in each of its objects.
  CompletionWriter(const CompletionRequest& request, std::string id, int64_t created);

  /// Takes the text's next message.
  void Add(const v1::GenerateResponse& message);
  /// What has been added since the last call, as a chunk; after all, the whole completion. With the
  /// end, also why it ended, and, but in a stream, what it used.
  Json Take();
  /// Of a stream, after its end.
  Json UsageChunk() const;

 private:
  Json Head() const;
  Json Usage() const;

  const std::string id_;
  const int64_t created_;
  const std::string model_;
  const bool stream_;
  const bool logprobs_;
  std::string text_;
  Json tokens_, token_logprobs_, top_logprobs_, text_offset_;
  int64_t offset_ = 0;  // In characters, of the next token's text.
  bool ended_ = false;
  v1::GenerateEnd end_;
};

/// {"error": {"message", "type", "param", "code"}}. `param` is the field that the message begins
/// with, if it does.
Json OpenAiError(const absl::Status& status);

}  // namespace thresher

#endif  // THRESHER_SERVER_OPENAI_JSON_H_
