// Calls that generate text or score it, whatever the transport: find the model, make the prompt,
// check every option, hand the text to the model's generator, and put what comes back into words.
//
// A prompt is read as the model's tokenizer makes it, its own special tokens included; an empty one
// starts from BOS. Prompt and `max_tokens` together must fit the context. `options.truncate` cuts
// the prompt's beginning, so that the newest text stays; a BOS token stays too. Of a text to be
// scored it cuts the end.
//
// A call is refused, before anything runs and with nothing handed on: as Inference::Admit does;
// INVALID_ARGUMENT for options that are out of range or contradict each other; RESOURCE_EXHAUSTED
// when too many texts wait, the calls in hand hold too much input, or this one could never fit the
// KV cache; DEADLINE_EXCEEDED. Room and deadline are asked first, before anything is tokenized.
#ifndef THRESHER_SERVER_TEXT_GENERATION_H_
#define THRESHER_SERVER_TEXT_GENERATION_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/scheduler/generation.h"
#include "server/inference.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {

/// So many tokens may wait for a reader; at that many its text is paused.
inline constexpr int kMaxUnsent = 64;

/// Where a text goes. Called by one thread at a time, which must not be kept.
class TextReceiver {
 public:
  virtual ~TextReceiver() = default;
  /// False: no more until the handle's Resume. A few may still come.
  virtual bool OnToken(v1::GeneratedToken token) = 0;
  /// The last call: how it ended, or why it did not.
  virtual void OnEnd(absl::StatusOr<v1::GenerateEnd> end) = 0;
};

/// Thread-safe.
class TextGeneration {
 public:
  using Handle = std::shared_ptr<GenerationHandle>;

  /// `inference` must outlive this object and all that it began.
  explicit TextGeneration(Inference* inference) : inference_(inference) {}

  struct Context {
    absl::Time arrival = absl::InfinitePast();  // On Clock::Real(), as is `deadline`.
    absl::Time deadline = absl::InfiniteFuture();
    /// Whether the caller has gone; asked while a call begins, not after. May be empty.
    std::function<bool()> cancelled;
  };

  /// Begins a text. A refusal is counted, and the receiver is not called; calls of it may come
  /// before this returns.
  absl::StatusOr<Handle> Generate(const v1::GenerateRequest& request, const Context& context,
                                  std::shared_ptr<TextReceiver> receiver);
  /// The same on a decoder that was admitted, whatever the request calls it. `method` is what the
  /// call is counted as.
  absl::StatusOr<Handle> Generate(Method method, const std::shared_ptr<const ServedModel>& model,
                                  const v1::GenerateRequest& request, const Context& context,
                                  std::shared_ptr<TextReceiver> receiver);

  using ScoreDone = std::function<void(absl::StatusOr<v1::ScoreResponse>)>;
  /// Begins to score; an input that can't be scored fails alone. `done` is called once, but not
  /// after a refusal.
  absl::StatusOr<Handle> Score(const v1::ScoreRequest& request, const Context& context,
                               ScoreDone done);

 private:
  /// What may be said of a call of so many texts before any is tokenized.
  static absl::Status CheckBegin(const ServedModel& model, const Context& context, size_t texts);

  class Text;
  class ScoreCall;

  Inference* const inference_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_TEXT_GENERATION_H_
