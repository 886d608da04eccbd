// Texts that are generated: continuous batching over one decoder's engine.
//
// Each **step** of the engine mixes one token of every text that is being written with chunks of
// prompts that are being read, under a budget of tokens. Texts join and leave at any step. While
// any text is being written, a step reads at most `prefill_chunk` prompt tokens, so that a long
// prompt delays no other text by more than that. Prompts are read in order of priority, then
// arrival.
//
// Memory: a text starts when the whole of what it may come to need is reserved in the KV pool
// (backend/engine/kv_cache.h), so that it never fails half way; until then it waits, and those
// behind it too. One that could never fit is refused.
//
// A text whose reader is slow is paused (its sink says so) and holds back only itself: it keeps its
// memory, but no place among those that run, and ends with CANCELLED after `max_pause`.
//
// Deadlines, cancellation and shutdown are looked at before each step; whatever ends a text frees
// its memory at once.
#ifndef THRESHER_BACKEND_SCHEDULER_GENERATION_H_
#define THRESHER_BACKEND_SCHEDULER_GENERATION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/engine/decoder_engine.h"
#include "backend/engine/sampler.h"
#include "backend/scheduler/clock.h"
#include "backend/scheduler/scheduler.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

struct GenerationRequest {
  std::vector<int32_t> prompt;  // At least one id.
  int32_t max_tokens = 0;       // To generate; 0: the prompt is only read (and scored).
  SamplingOptions sampling;
  std::vector<int32_t> end_ids;          // Each ends the text.
  bool logprobs = false;                 // Of generated tokens.
  bool prompt_logprobs = false;          // Of the prompt's: its tokens are handed to the sink too.
  int32_t top_logprobs = 0;              // With either: this many alternatives.
  std::shared_ptr<const Policy> policy;  // Null: dense.
  ReportDetail detail;
  absl::Time deadline = absl::InfiniteFuture();
  int32_t priority = 0;  // Higher first.
};

struct TextToken {
  int32_t id = 0;
  bool prompt = false;
  /// If asked for: of the model's own distribution, before any sampling option. Not of a prompt's
  /// first token.
  std::optional<double> logprob;
  std::vector<std::pair<double, int32_t>> top;  // (log-probability, id), largest first.
};

enum class FinishReason {
  kStop,    // One of end_ids, or the sink.
  kLength,  // max_tokens, or the end of the context.
};

struct GenerationResult {
  FinishReason reason = FinishReason::kLength;
  int32_t prompt_tokens = 0;
  int32_t generated_tokens = 0;      // With the one of end_ids that ended it.
  int32_t cached_prompt_tokens = 0;  // Not run, since another text had left them.
  absl::Duration queue;              // From Submit to its first step.
  absl::Duration compute;            // All steps that it was part of.
  v1::PruningReport report;
};

/// Where a text goes. Called on the executor's thread (OnEnd perhaps on that which destroys the
/// generator), with no lock held; must be quick and not throw. OnEnd is the last call, exactly
/// once.
class GenerationSink {
 public:
  enum class Next {
    kGoOn,
    /// No step until the handle's Resume. Tokens that a step has given already still come: several
    /// where a prompt is scored, of which the last one's answer counts.
    kPause,
    kStop,  // The text ends here.
  };

  virtual ~GenerationSink() = default;
  /// A token, which is not one of end_ids.
  virtual Next OnToken(const TextToken& token) = 0;
  /// The text has ended, or why it has not been made: CANCELLED (by the caller, or its reader took
  /// nothing for too long), DEADLINE_EXCEEDED, UNAVAILABLE
  /// (the server shut down), INTERNAL.
  virtual void OnEnd(absl::StatusOr<GenerationResult> result) = 0;
};

/// Thread-safe; may outlive the generator.
class GenerationHandle {
 public:
  virtual ~GenerationHandle() = default;
  virtual void Resume() = 0;
  /// The text ends with CANCELLED before the next step.
  virtual void Cancel() = 0;
};

struct GeneratorOptions {
  int32_t max_step_tokens = 4096;
  int32_t prefill_chunk = 256;
  int32_t max_running = 256;  // Texts that are not paused.
  int32_t max_waiting = 1024;
  absl::Duration max_pause = absl::Minutes(1);  // A text that is paused for longer is ended.
  Clock* clock = Clock::Real();
};

/// For metrics. Called on the executor's thread with no lock held; must be quick.
class GenerationObserver {
 public:
  virtual ~GenerationObserver() = default;
  /// A step has ended, well or not.
  virtual void OnStep(int32_t texts, int32_t decode_tokens, int32_t prompt_tokens,
                      absl::Duration compute) = 0;
};

/// Thread-safe.
class Generator {
 public:
  /// The steps run on the scheduler's executor, in turns with its other work by cost. `scheduler`
  /// must outlive the generator, `observer` (may be null) too.
  Generator(std::shared_ptr<DecoderEngine> engine, const GeneratorOptions& options,
            Scheduler* scheduler, GenerationObserver* observer);
  /// Ends what is left with UNAVAILABLE; waits for a step that runs. Not on the executor's thread.
  ~Generator();
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  /// Takes a text. On error nothing was taken and the sink is not called:
  ///   INVALID_ARGUMENT    an empty prompt, an id out of range, a prompt longer than the context,
  ///                       sampling options out of range;
  ///   RESOURCE_EXHAUSTED  it could never fit the KV cache, or too many wait;
  ///   DEADLINE_EXCEEDED   the deadline has passed;
  ///   UNAVAILABLE         draining or shut down.
  absl::StatusOr<std::shared_ptr<GenerationHandle>> Submit(GenerationRequest request,
                                                           std::shared_ptr<GenerationSink> sink);

  /// What Submit would say of so many texts for want of places, or since the model is unloaded:
  /// asked before work is spent on preparing them. OK promises nothing.
  absl::Status CheckRoom(size_t texts) const;

  struct Snapshot {
    int32_t waiting = 0;
    int32_t running = 0;  // Paused ones included.
  };
  Snapshot snapshot() const;

  const DecoderEngine& engine() const;

 private:
  class Impl;
  const std::shared_ptr<Impl> impl_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_SCHEDULER_GENERATION_H_
