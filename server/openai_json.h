// OpenAI's embeddings and completions between their JSON and thresher.v1's messages. Knows nothing
// of models and transports.
//
// What the API's fields mean is OpenAI's, defaults included (a completion has at most 16 tokens and
// temperature 1). Of its own, as in thresher.v1: `sparsity` (a policy), `max_quality_loss`
// (embeddings), `truncate`, `priority`, and for completions `top_k`, `min_p`, `repetition_penalty`
// and `ignore_eos`. What is not done here is refused: fields that are not known, the best of
// several completions, penalties, biases, suffixes.
#ifndef THRESHER_SERVER_OPENAI_JSON_H_
#define THRESHER_SERVER_OPENAI_JSON_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

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

/// So many completions may be asked for at once, prompts and `n` together.
inline constexpr size_t kMaxChoices = 128;

struct CompletionRequest {
  v1::GenerateRequest request;  // But for its prompt.
  std::vector<v1::Input> prompts;
  size_t n = 1;  // Completions of each.
  bool stream = false;
  bool include_usage = false;  // A stream's last chunk but one tells it.

  /// Those of one prompt follow one another.
  size_t choices() const { return n * prompts.size(); }
  /// What asks for a choice. The completions of one prompt have seeds that follow one another, if
  /// one was sent: the same whatever other prompts came with it.
  v1::GenerateRequest Choice(size_t i) const;
};
absl::StatusOr<CompletionRequest> ReadCompletion(std::string_view body);

/// What is wrong with a choice, and names no field, is wrong with its prompt: of several, says
/// which.
absl::Status OfPrompt(const CompletionRequest& request, size_t choice, const absl::Status& status);

/// All completions of a request, or the chunks of their stream.
class CompletionWriter {
 public:
  /// `id` and `created` (seconds since the epoch) stand in each of its objects.
  CompletionWriter(const CompletionRequest& request, std::string id, int64_t created);

  /// Takes the next message of a choice's text.
  void Add(size_t choice, const v1::GenerateResponse& message);
  /// What has been added since the last call, as a chunk; after all, the whole answer. Choices that
  /// have ended tell why and with which seed (0: nothing was drawn), `report` sums their work, and,
  /// but in a stream, `usage` tells their tokens.
  Json Take();
  /// Of a stream, after its end.
  Json UsageChunk() const;

 private:
  struct Choice {
    bool added = false;  // Since the last Take.
    std::string text;
    Json tokens = Json::array(), token_logprobs = Json::array(), top_logprobs = Json::array(),
         text_offset = Json::array();
    int64_t offset = 0;  // In characters, of the next token's text.
    std::optional<v1::GenerateEnd> end;
  };

  Json Head() const;
  Json Usage() const;
  Json TakeChoice(size_t i);

  const std::string id_;
  const int64_t created_;
  const std::string model_;
  const size_t n_;
  const bool stream_;
  const bool logprobs_;
  std::vector<Choice> choices_;
};

/// {"error": {"message", "type", "param", "code"}}. `param` is the field that the message begins
/// with, if it does.
Json OpenAiError(const absl::Status& status);

}  // namespace thresher

#endif  // THRESHER_SERVER_OPENAI_JSON_H_
