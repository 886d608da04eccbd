// What the engine's tests share: engines without tokenizers, one-sequence runs, devices by name.
#ifndef THRESHER_TESTS_ENGINE_ENGINE_TESTING_H_
#define THRESHER_TESTS_ENGINE_ENGINE_TESTING_H_

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend/engine/encoder_engine.h"
#include "backend/tensor/status.h"

namespace thresher::testing {

/// Sanitizers make arithmetic tens of times slower: tests that compute much then compute less.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

inline std::shared_ptr<Device> MakeDevice(const std::string& name, int threads = 1) {
  auto device = CreateDevice(name, {.threads = threads});
  if (!device.ok()) throw std::runtime_error(Message(device.status()));
  return *std::move(device);
}

inline std::unique_ptr<EncoderEngine> MakeEngine(const std::string& directory,
                                                 std::shared_ptr<Device> device,
                                                 Precision precision = Precision::kF32) {
  const auto config = LoadModelConfig(directory);
  if (!config.ok()) throw std::runtime_error(Message(config.status()));
  auto engine =
      EncoderEngine::Load(directory, *config, std::move(device), precision, config->max_tokens());
  if (!engine.ok()) throw std::runtime_error(Message(engine.status()));
  return *std::move(engine);
}

/// Outputs of one batch; fails the test unless all went well.
inline std::vector<SequenceOutput> RunBatch(Engine& engine,
                                            const std::vector<Sequence>& sequences) {
  std::vector<const Sequence*> pointers;
  for (const Sequence& sequence : sequences) {
    EXPECT_TRUE(engine.Validate(sequence).ok()) << engine.Validate(sequence);
    pointers.push_back(&sequence);
  }
  std::vector<SequenceOutput> outputs(sequences.size());
  const absl::Status status = engine.Run(pointers, outputs);
  EXPECT_TRUE(status.ok()) << status;
  for (const SequenceOutput& output : outputs) EXPECT_TRUE(output.status.ok()) << output.status;
  return outputs;
}

/// `count` sequences of random ids and mixed lengths in 1 .. `longest`, that ask for all there is.
inline std::vector<Sequence> MixedSequences(size_t count, int32_t longest, int32_t vocab_size,
                                            bool logits) {
  std::mt19937 random(7);
  std::vector<Sequence> sequences(count);
  for (size_t i = 0; i < count; ++i) {
    // The shortest and the longest are always there.
    const int32_t length = i == 0   ? 1
                           : i == 1 ? longest
                                    : 1 + static_cast<int32_t>(random() % uint32_t(longest));
    for (int32_t t = 0; t < length; ++t) {
      sequences[i].ids.push_back(static_cast<int32_t>(random() % uint32_t(vocab_size)));
    }
    sequences[i].want_logits = logits;
    sequences[i].want_embedding = true;
    sequences[i].pooling = i % 2 == 0 ? Pooling::kMean : Pooling::kCls;
    sequences[i].normalize = i % 3 == 0;
  }
  return sequences;
}

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_ENGINE_ENGINE_TESTING_H_
