// What KV policies cost a decoder: perplexity of a text, against the keys and values that were read
// and held.
//
// The text is cut into windows of as many tokens that do not overlap (a last shorter one is left
// out); or into documents, of each of which the beginning is a window, at most so long. A window
// begins with BOS where the model has one. Of a window the first
// tokens are its prompt, which is read densely; every later token is run as a decode step, as if it
// had been generated, so that the policy rules what it sees, and the next token's log-probability
// is scored.
#ifndef THRESHER_BACKEND_EVALUATION_PERPLEXITY_H_
#define THRESHER_BACKEND_EVALUATION_PERPLEXITY_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/engine/decoder_engine.h"
#include "backend/text/tokenizer.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

struct WindowOptions {
  int32_t tokens = 0;  // Of a window, BOS included; 0: the model's context.
  /// A document begins at each line that begins so; what is before the first is left out. Empty:
  /// the text is not cut into documents.
  std::string document;
  int64_t limit = 0;  // At most so many windows, evenly spread over the text; 0: all.
};

/// INVALID_ARGUMENT: a window longer than the context or shorter than 2 tokens, a text that has not
/// a whole one.
absl::StatusOr<std::vector<std::vector<int32_t>>> CutWindows(const Tokenizer& tokenizer,
                                                             const DecoderEngine& engine,
                                                             std::string_view text,
                                                             const WindowOptions& options);

struct PerplexityOptions {
  int32_t prompt = 1;  // Tokens of each window that are read as a prompt; the rest is scored.
  int32_t batch = 16;  // Windows that run together.
  /// Hears the logits of every scored token: of which window, and the token's place in it.
  std::function<void(size_t window, size_t token, std::span<const float> logits)> on_logits;
  /// Called now and then with the tokens scored so far; false stops with CANCELLED.
  std::function<bool(int64_t scored)> progress;
};

struct PerplexityResult {
  std::string sparsity;  // As asked.
  std::string policy;    // As it ran, in full.
  int64_t windows = 0;
  int64_t tokens = 0;              // Scored.
  double loss = 0;                 // Mean of -ln p, in nats a token.
  double standard_error = 0;       // Of the loss, over windows.
  v1::PruningReport::Work decode;  // Of the decode steps.
  v1::PruningReport::Amount held;  // Bytes at the ends of the windows.
  int64_t steps = 0;               // Decode steps, over windows.
  v1::Simulation simulation;       // On a simulated device, with `batch` 1.
  double seconds = 0;              // All of it, prompts too.
};

/// One policy ("dense" for none). INVALID_ARGUMENT: one that the model can't have.
absl::StatusOr<PerplexityResult> MeasurePerplexity(DecoderEngine& engine,
                                                   std::span<const std::vector<int32_t>> windows,
                                                   std::string_view sparsity,
                                                   const PerplexityOptions& options);

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_PERPLEXITY_H_
