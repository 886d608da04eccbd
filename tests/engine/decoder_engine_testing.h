// What tests of generation share: decoder engines by directory, texts run step by step.
#ifndef THRESHER_TESTS_ENGINE_DECODER_ENGINE_TESTING_H_
#define THRESHER_TESTS_ENGINE_DECODER_ENGINE_TESTING_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "backend/engine/decoder_engine.h"
#include "backend/tensor/status.h"
#include "tests/engine/engine_testing.h"

namespace thresher::testing {

inline constexpr size_t kPlentyOfCache = size_t{64} << 20;

inline std::shared_ptr<DecoderEngine> MakeDecoder(
    const std::string& directory, std::shared_ptr<Device> device,
    Precision precision = Precision::kF32,
    std::shared_ptr<KvPool> pool = std::make_shared<KvPool>(kPlentyOfCache)) {
  const auto config = LoadDecoderConfig(directory);
  if (!config.ok()) throw std::runtime_error(Message(config.status()));
  auto engine = DecoderEngine::Load(directory, *config, std::move(device), precision,
                                    config->max_tokens, std::move(pool));
  if (!engine.ok()) throw std::runtime_error(Message(engine.status()));
  return *std::move(engine);
}

inline std::shared_ptr<const Policy> MakePolicy(const DecoderEngine& engine,
                                                std::string_view text) {
  if (text.empty()) return nullptr;
  auto policy = engine.ParsePolicy(text);
  if (!policy.ok()) throw std::runtime_error(Message(policy.status()));
  return *std::move(policy);
}

inline std::vector<int32_t> RandomIds(const DecoderEngine& engine, int32_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random() % static_cast<uint32_t>(engine.config().vocab_size));
  }
  return ids;
}

inline CachedTextPtr StartText(DecoderEngine& engine, std::shared_ptr<const Policy> policy,
                               int32_t prompt, int32_t tokens, const ReportDetail& detail = {}) {
  const size_t bytes = engine.CacheBytes(policy.get(), prompt, tokens);
  auto text = engine.Start(std::move(policy), detail, bytes);
  if (!text.ok()) throw std::runtime_error(Message(text.status()));
  return *std::move(text);
}

/// One part alone; its logits, row by row.
inline std::vector<std::vector<float>> RunStep(DecoderEngine& engine, const StepPart& part) {
  std::vector<std::vector<float>> rows;
  const absl::Status status =
      engine.Step(std::span(&part, 1), [&](size_t, int32_t, std::span<const float> logits) {
        rows.emplace_back(logits.begin(), logits.end());
      });
  EXPECT_TRUE(status.ok()) << status;
  return rows;
}

inline int32_t ArgMaxOf(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
}

/// What a text alone gives: the logits after the prompt and after each of `steps` tokens, each the
/// most probable one before. The prompt is read in chunks of `chunk`.
inline std::vector<std::vector<float>> RunAlone(DecoderEngine& engine,
                                                std::span<const int32_t> prompt, int32_t steps,
                                                std::shared_ptr<const Policy> policy,
                                                size_t chunk = SIZE_MAX) {
  const auto length = static_cast<int32_t>(prompt.size());
  const CachedTextPtr text = StartText(engine, std::move(policy), length, length + steps);
  std::vector<std::vector<float>> logits;
  for (size_t begin = 0; begin < prompt.size(); begin += chunk) {
    const size_t count = std::min(chunk, prompt.size() - begin);
    const bool ends = begin + count == prompt.size();
    logits = RunStep(engine, {.text = text.get(),
                              .ids = prompt.subspan(begin, count),
                              .prompt_tokens = length,
                              .logits = StepPart::Logits::kLast});
    if (ends) break;
  }
  for (int32_t i = 0; i < steps; ++i) {
    const int32_t next = ArgMaxOf(logits.back());
    logits.push_back(
        RunStep(engine,
                {.text = text.get(), .ids = std::span(&next, 1), .logits = StepPart::Logits::kLast})
            .at(0));
  }
  return logits;
}

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_ENGINE_DECODER_ENGINE_TESTING_H_
