// What a checkpoint's config.json says of its model, checked: BERT, RoBERTa (with XLM-RoBERTa and
// CamemBERT, which are the same network) and DistilBERT.
#ifndef THRESHER_BACKEND_MODEL_MODEL_CONFIG_H_
#define THRESHER_BACKEND_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/device.h"

namespace thresher {

/// Networks whose checkpoints name their tensors alike.
enum class Family { kBert, kRoberta, kDistilBert };

/// What the model's head computes. kGeneration is a decoder's (decoder_config.h), never an
/// encoder's.
enum class Task {
  kNone,
  kSequenceClassification,
  kTokenClassification,
  kQuestionAnswering,
  kGeneration
};

/// How tokens attend. Flow-attention (Flowformer, ICML 2022; Device::FlowAttention) takes weights
/// that were trained for it.
enum class AttentionKind { kSoftmax, kFlow, kCausalFlow };

struct ModelConfig {
  std::string architecture;  // "BertForSequenceClassification"
  Family family = Family::kBert;
  Task task = Task::kNone;
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t intermediate_size = 0;
  /// Rows of the position table, and the position of a sequence's first token: 0, but pad_token_id
  /// + 1 in RoBERTa, whose padding has a position of its own.
  int32_t positions = 0;
  int32_t first_position = 0;
  int32_t type_vocab_size = 0;  // 0: the network has no token types.
  int32_t pad_token_id = 0;
  Activation activation = Activation::kGelu;
  AttentionKind attention = AttentionKind::kSoftmax;
  float layer_norm_epsilon = 1e-12f;
  /// By id, for the classification tasks; "LABEL_0" and so on where the file names none.
  std::vector<std::string> labels;
  bool multi_label = false;

  int32_t head_dim() const { return hidden_size / heads; }
  /// The longest sequence that has a position for every token.
  int32_t max_tokens() const { return positions - first_position; }
};

/// `text` is the contents of config.json, `name` what errors call it. Fields that shape the network
/// are required; others have the defaults that their architecture is published with.
/// INVALID_ARGUMENT names the field; UNIMPLEMENTED: a known field with a value that no code here
/// computes, or an unknown architecture (with those that are known).
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view text, std::string_view name);

/// Reads `directory`/config.json.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory);

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_MODEL_CONFIG_H_
