// What a decoder checkpoint's config.json says of its model, checked: GPT-2, Llama and OPT.
//
// One network with options; each family chooses:
//
//   h = word (+ position), projected in where the table is narrower (OPT)
//   each layer, pre-norm:   h += attention(norm(h));    h += ffn(norm(h))
//   each layer, post-norm:  h = norm(h + attention(h)); h = norm(h + ffn(h))       (OPT-350m)
//   logits = head(norm(h))
//
// ffn is act(x W1) W2, or gated: (act(x Wg) * (x W1)) W2.
#ifndef THRESHER_BACKEND_MODEL_DECODER_CONFIG_H_
#define THRESHER_BACKEND_MODEL_DECODER_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/model/rotary.h"

namespace thresher {

enum class DecoderFamily { kGpt2, kLlama, kOpt };

struct DecoderConfig {
  std::string architecture;  // "LlamaForCausalLM"
  DecoderFamily family = DecoderFamily::kLlama;
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t embedding_size = 0;  // Width of the word table: hidden_size but for OPT-350m.
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;  // Fewer than heads: grouped-query attention.
  int32_t head_dim = 0;
  int32_t intermediate_size = 0;
  int32_t max_tokens = 0;  // The context: prompt and what is generated, together.
  Activation activation = Activation::kSilu;
  bool gated = false;
  bool rms_norm = false;   // Else LayerNorm.
  bool pre_norm = true;    // Norms before attention and ffn; else after the sums.
  bool final_norm = true;  // After the last layer.
  float norm_epsilon = 1e-5f;
  bool attention_bias = true;  // Of Q, K, V and the output projection.
  bool mlp_bias = true;
  bool tied = true;                    // The head is the word table.
  std::optional<RotaryConfig> rotary;  // Else a table of positions,
  int32_t position_offset = 0;         // whose row for position p is p + this (OPT: 2).
  bool scale_attention = true;         // Scores by 1 / sqrt(head_dim),
  bool scale_by_layer = false;         // and by 1 / (layer + 1) (GPT-2's option).
  std::optional<int32_t> bos;          // What an empty prompt starts from.
  std::vector<int32_t> eos;  // Each ends a text; of generation_config.json, else config.json.
};

/// The architectures, for dispatch and for error messages.
bool IsDecoderArchitecture(std::string_view architecture);
std::string DecoderArchitectures();

/// `text` is the contents of config.json, `generation` those of generation_config.json or empty;
/// `name` is what errors call the first. Fields that shape the network are required; others have
/// the defaults that their architecture is published with. INVALID_ARGUMENT names the field;
/// UNIMPLEMENTED: a known field with a value that no code here computes.
absl::StatusOr<DecoderConfig> ParseDecoderConfig(std::string_view text, std::string_view generation,
                                                 std::string_view name);
/// Reads `directory`/config.json, and generation_config.json if it is there.
absl::StatusOr<DecoderConfig> LoadDecoderConfig(const std::string& directory);

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_DECODER_CONFIG_H_
