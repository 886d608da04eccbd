#include "server/warm_up.h"

#include <algorithm>
#include <span>
#include <vector>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Any ids will do, as long as they differ: the tables are read where requests will read them.
Sequence MakeSequence(const ModelInfo& info, int32_t length) {
  Sequence sequence;
  for (int32_t i = 0; i < length; ++i) sequence.ids.push_back((i * 7 + 1) % info.vocab_size);
  sequence.want_logits = info.task != Task::kNone;
  sequence.want_embedding = true;
  sequence.pooling = info.pooling;
  sequence.normalize = info.normalize;
  return sequence;
}

absl::Status RunBatch(Engine& engine, std::span<const Sequence* const> batch) {
  std::vector<SequenceOutput> outputs(batch.size());
  THRESHER_RETURN_IF_ERROR(engine.Run(batch, outputs));
  for (const SequenceOutput& output : outputs) THRESHER_RETURN_IF_ERROR(output.status);
  return absl::OkStatus();
}

/// Reads prompts of a few lengths, alone and together, and writes one token after each. Where other
/// texts hold the cache's memory it does without: that is no fault of the model.
absl::Status WarmUpDecoder(DecoderEngine& engine) {
  constexpr int32_t kLengths[] = {2, 16, 64};
  struct Text {
    std::vector<int32_t> prompt;
    CachedTextPtr cache;
  };
  std::vector<Text> texts;
  const auto run = [&](std::span<Text> some, bool prompt) {
    std::vector<StepPart> parts;
    for (Text& text : some) {
      parts.push_back({.text = text.cache.get(),
                       .ids = prompt ? text.prompt : std::span(text.prompt).first(1),
                       .prompt_tokens = prompt ? static_cast<int32_t>(text.prompt.size()) : 0,
                       .logits = StepPart::Logits::kLast});
    }
    return engine.Step(parts, [](size_t, int32_t, std::span<const float>) {});
  };
  const auto add = [&](int32_t length) {
    Text& text = texts.emplace_back();
    for (int32_t i = 0; i < length; ++i) {
      text.prompt.push_back((i * 7 + 1) % engine.config().vocab_size);
    }
    auto cache = engine.Start(nullptr, {}, engine.CacheBytes(nullptr, length, length + 1));
    if (cache.ok()) text.cache = *std::move(cache);
    return cache.status();
  };
  const absl::Status status = [&]() -> absl::Status {
    for (const bool together : {false, true}) {
      texts.clear();
      for (const int32_t length : kLengths) {
        if (length >= engine.max_tokens()) continue;
        THRESHER_RETURN_IF_ERROR(add(length));
        if (!together) THRESHER_RETURN_IF_ERROR(run(std::span(&texts.back(), 1), true));
      }
      if (texts.empty()) continue;
      if (together) THRESHER_RETURN_IF_ERROR(run(texts, true));
      THRESHER_RETURN_IF_ERROR(run(texts, false));
    }
    return absl::OkStatus();
  }();
  return absl::IsResourceExhausted(status) ? absl::OkStatus() : status;
}

}  // namespace

absl::Status WarmUp(LoadedModel& model) {
  if (model.decoder != nullptr) return Annotate(WarmUpDecoder(*model.decoder), "warm-up");
  std::vector<Sequence> sequences;
  for (const int32_t length : {2, 16, 64}) {
    sequences.push_back(MakeSequence(model.info, std::min(length, model.info.max_tokens)));
  }
  std::vector<const Sequence*> batch;
  for (const Sequence& sequence : sequences) {
    const absl::Status status = model.engine->Validate(sequence);
    THRESHER_RETURN_IF_ERROR(Annotate(status, "warm-up"));
    batch.push_back(&sequence);
    THRESHER_RETURN_IF_ERROR(
        Annotate(RunBatch(*model.engine, std::span(&batch.back(), 1)), "warm-up"));
  }
  return Annotate(RunBatch(*model.engine, batch), "warm-up");
}

}  // namespace thresher
