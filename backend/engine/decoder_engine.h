// The engine of decoders: runs steps, each a ragged batch of decode tokens and chunks of prompts,
// over KV caches that it owns the memory of.
//
//   auto text = engine->Start(policy, detail);
//   engine->Step({{.text = text.get(), .ids = prompt, .prompt_tokens = n, .logits = kLast}},
//   outputs);
//   ... then one token after the other, each the one that was sampled from the logits before:
//   engine->Step({{.text = text.get(), .ids = {token}, .logits = kLast}}, outputs);
#ifndef THRESHER_BACKEND_ENGINE_DECODER_ENGINE_H_
#define THRESHER_BACKEND_ENGINE_DECODER_ENGINE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/engine/engine.h"
#include "backend/engine/kv_cache.h"
#include "backend/model/checkpoint.h"
#include "backend/model/decoder.h"
#include "backend/model/decoder_config.h"
#include "backend/sparsity/policy.h"
#include "backend/tensor/dtype.h"
#include "backend/tensor/mutex.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

/// One text that is being read or written: its cache, its policy's run, its account. Belongs to one
/// engine, which must outlive it, and to one thread at a time; its memory goes back to the pool
/// with it.
class CachedText;
struct CachedTextDeleter {
  void operator()(CachedText* text) const;
};
using CachedTextPtr = std::unique_ptr<CachedText, CachedTextDeleter>;

class LayerPricing;

/// What one text adds to a step.
struct StepPart {
  enum class Logits { kNone, kLast, kAll };

  CachedText* text = nullptr;
  /// Its next tokens: a chunk of the prompt, or one generated token.
  std::span<const int32_t> ids;
  /// Of a chunk: the tokens of the whole prompt, which ends with the chunk that completes it. 0: a
  /// generated token.
  int32_t prompt_tokens = 0;
  Logits logits = Logits::kNone;

  bool prompt() const { return prompt_tokens > 0; }
};

class DecoderEngine {
 public:
  /// Reads and packs the weights of `directory`. `max_tokens` is at most config.max_tokens. `pool`
  /// may serve several engines.
  static absl::StatusOr<std::unique_ptr<DecoderEngine>> Load(
      const std::string& directory, const DecoderConfig& config, std::shared_ptr<Device> device,
      Precision precision, int32_t max_tokens, std::shared_ptr<KvPool> pool);
  ~DecoderEngine();

  const DecoderConfig& config() const { return decoder_.config(); }
  int32_t max_tokens() const { return max_tokens_; }
  int64_t parameters() const { return parameters_; }
  size_t packed_bytes() const { return packed_bytes_; }
  KvPool& pool() const { return *pool_; }

  // ---- Thread-safe ----

  absl::StatusOr<std::shared_ptr<const Policy>> ParsePolicy(std::string_view text) const;
  /// Every id within the vocabulary, at least one, at most max_tokens().
  absl::Status ValidatePrompt(std::span<const int32_t> ids) const;
  /// The most tokens that a text may come to have under the policy (null: dense): the context, but
  /// where tokens stand within a bounded cache (StreamingLLM) there is no end.
  int32_t MaxTokens(const Policy* policy) const;
  /// Bytes of cache that a text holds at most: all of `prompt` while it is read, and then what the
  /// policy (null: dense) keeps of up to `tokens`.
  size_t CacheBytes(const Policy* policy, int32_t prompt, int32_t tokens) const;
  /// From now on `recorder` hears of every layer that runs; null: nobody does.
  void SetRecorder(std::shared_ptr<LayerRecorder> recorder);

  // ---- By one thread at a time ----

  /// A new text. `bytes` of cache (CacheBytes) are its own from now on, so that its steps can't
  /// fail for want of memory; RESOURCE_EXHAUSTED if they are not there. Of `prompt` (may be empty)
  /// it takes as much of the beginning as other texts have left in the pool, in whole pages and
  /// never all of it: Tokens() tells how many tokens need not be run.
  absl::StatusOr<CachedTextPtr> Start(std::shared_ptr<const Policy> policy,
                                      const ReportDetail& detail, size_t bytes,
                                      std::span<const int32_t> prompt = {});

  /// Receives, row by row, the logits of a part's rows that asked for them, in order.
  using OnLogits = absl::FunctionRef<void(size_t part, int32_t row, std::span<const float> logits)>;

  /// Runs one step. A text may be in it once. The same logits come for a text whatever else is in
  /// the step and however its prompt is cut. Takes the device's mutex. An error is the step's as a
  /// whole, and the texts in it are spoilt.
  absl::Status Step(std::span<const StepPart> parts, OnLogits on_logits);

  /// The account of what ran so far.
  static v1::PruningReport Report(const CachedText& text);
  /// Tokens run so far.
  static int32_t Tokens(const CachedText& text);

 private:
  struct Workspace;

  DecoderEngine(std::shared_ptr<Device> device, Precision precision, int32_t max_tokens,
                Checkpoint checkpoint, Decoder decoder, std::shared_ptr<KvPool> pool);

  const KvLayout& LayoutOf(const Policy* policy) const;
  /// Packs what the parts' policies need and no earlier step has needed.
  absl::Status Prepare(std::span<const StepPart> parts);
  absl::Status Price(int32_t layer, std::span<const StepPart> parts, LayerPricing& pricing) const;
  absl::Status TellLogits(std::span<const StepPart> parts, OnLogits on_logits);

  const std::shared_ptr<Device> device_;
  const int32_t max_tokens_;
  const Checkpoint checkpoint_;  // Of what the decoder may have to pack later.
  Decoder decoder_;
  const PolicyShape shape_;
  const DType element_;  // Of caches: as exact as the products.
  const std::shared_ptr<KvPool> pool_;
  const std::string scope_;  // Begins the keys of this engine's pages.
  mutable Mutex layouts_mutex_;
  mutable std::vector<std::unique_ptr<KvLayout>> layouts_;  // One for each format in use.
  int64_t parameters_ = 0;
  size_t packed_bytes_ = 0;
  const std::unique_ptr<Workspace> workspace_;
  std::shared_ptr<LayerRecorder> recorder_;  // Under the device's mutex.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_DECODER_ENGINE_H_
