#include "backend/model/decoder_tensor_names.h"

namespace thresher {
namespace {

constexpr DecoderTensorNames kGpt2 = {
    .prefix = "transformer.",
    .words = "wte",
    .positions = "wpe",
    .final_norm = "ln_f",
    .head = "lm_head",
    .layers = "h.",
    .attention_norm = "ln_1",
    .query_key_value = "attn.c_attn",
    .attention_output = "attn.c_proj",
    .ffn_norm = "ln_2",
    .up = "mlp.c_fc",
    .down = "mlp.c_proj",
    .transposed = true,
};

constexpr DecoderTensorNames kLlama = {
    .prefix = "model.",
    .words = "embed_tokens",
    .final_norm = "norm",
    .head = "lm_head",
    .layers = "layers.",
    .attention_norm = "input_layernorm",
    .query = "self_attn.q_proj",
    .key = "self_attn.k_proj",
    .value = "self_attn.v_proj",
    .attention_output = "self_attn.o_proj",
    .ffn_norm = "post_attention_layernorm",
    .gate = "mlp.gate_proj",
    .up = "mlp.up_proj",
    .down = "mlp.down_proj",
};

constexpr DecoderTensorNames kOpt = {
    .prefix = "model.",
    .words = "decoder.embed_tokens",
    .positions = "decoder.embed_positions",
    .project_in = "decoder.project_in",
    .project_out = "decoder.project_out",
    .final_norm = "decoder.final_layer_norm",
    .head = "lm_head",
    .layers = "decoder.layers.",
    .attention_norm = "self_attn_layer_norm",
    .query = "self_attn.q_proj",
    .key = "self_attn.k_proj",
    .value = "self_attn.v_proj",
    .attention_output = "self_attn.out_proj",
    .ffn_norm = "final_layer_norm",
    .up = "fc1",
    .down = "fc2",
};

}  // namespace

const DecoderTensorNames& NamesOf(DecoderFamily family) {
  switch (family) {
    case DecoderFamily::kGpt2:
      return kGpt2;
    case DecoderFamily::kOpt:
      return kOpt;
    case DecoderFamily::kLlama:
      break;
  }
  return kLlama;
}

}  // namespace thresher
