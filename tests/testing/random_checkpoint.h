// Writes checkpoints with random weights in the shape of a BERT or a GPT-2, of any size, for
// benchmarks and for tests of loading: what they answer means nothing, what they cost is real.
#ifndef THRESHER_TESTS_TESTING_RANDOM_CHECKPOINT_H_
#define THRESHER_TESTS_TESTING_RANDOM_CHECKPOINT_H_

#include <cstdint>
#include <filesystem>

#include "absl/status/status.h"
#include "backend/tensor/dtype.h"

namespace thresher::testing {

/// The defaults are BERT-base's: 110 million parameters.
struct RandomCheckpointOptions {
  int32_t layers = 12;
  int32_t hidden_size = 768;
  int32_t heads = 12;
  int32_t intermediate_size = 3072;
  int32_t vocab_size = 30522;  // At least 128: the letters, digits and marks and their "##" forms.
  int32_t positions = 512;
  /// 0: a plain BertModel. Else a BertForSequenceClassification.
  int32_t labels = 2;
  DType dtype = DType::kF32;  // Or kBF16.
  uint64_t seed = 1;
};

/// Writes config.json, model.safetensors, vocab.txt and tokenizer_config.json into `directory`,
/// which is made if need be. The same options give the same bytes.
absl::Status WriteRandomCheckpoint(const std::filesystem::path& directory,
                                   const RandomCheckpointOptions& options);

/// The defaults are GPT-2 small's: 124 million parameters.
struct RandomGpt2Options {
  int32_t layers = 12;
  int32_t hidden_size = 768;
  int32_t heads = 12;
  int32_t vocab_size = 50257;
  int32_t positions = 1024;
  DType dtype = DType::kF32;  // Or kBF16.
  uint64_t seed = 1;
};

/// Writes config.json and model.safetensors of a GPT2LMHeadModel; no tokenizer.
absl::Status WriteRandomGpt2(const std::filesystem::path& directory,
                             const RandomGpt2Options& options);

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_TESTING_RANDOM_CHECKPOINT_H_
