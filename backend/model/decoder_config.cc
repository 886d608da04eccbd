#include "backend/model/decoder_config.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "backend/model/config_fields.h"
#include "backend/model/files.h"
#include "backend/model/json_fields.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int32_t kMaxWide = 4 * kMaxWidth;  // Of the feed-forward network.
constexpr size_t kMaxEndings = 1'024;

/// A family as it is published.
struct Architecture {
  std::string_view name;
  std::string_view model_type;
  DecoderFamily family;
  // How it spells the fields that all have.
  std::string_view hidden_size, layers, heads, positions, activation;
  std::string_view default_activation;
  bool tied;
  int32_t bos, eos;
};
constexpr std::array kArchitectures = {
    Architecture{"GPT2LMHeadModel", "gpt2", DecoderFamily::kGpt2, "n_embd", "n_layer", "n_head",
                 "n_positions", "activation_function", "gelu_new", true, 50256, 50256},
    Architecture{"LlamaForCausalLM", "llama", DecoderFamily::kLlama, "hidden_size",
                 "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
                 "hidden_act", "silu", false, 1, 2},
    Architecture{"OPTForCausalLM", "opt", DecoderFamily::kOpt, "hidden_size", "num_hidden_layers",
                 "num_attention_heads", "max_position_embeddings", "activation_function", "relu",
                 true, 2, 2},
};

absl::StatusOr<const Architecture*> ParseArchitecture(const JsonFields& fields) {
  THRESHER_ASSIGN_OR_RETURN(const std::string name, ArchitectureName(fields));
  const Architecture* known = Lookup(kArchitectures, name);
  if (known == nullptr) {
    return Unimplemented("{}: architecture '{}' is not one of {}", fields.name(), Shorten(name),
                         Known(kArchitectures));
  }
  THRESHER_ASSIGN_OR_RETURN(const std::string type,
                            fields.String("model_type", std::string(known->model_type)));
  if (type != known->model_type) {
    return InvalidArgument("{}: field 'model_type' is '{}', which contradicts architecture '{}'",
                           fields.name(), Shorten(type), name);
  }
  return known;
}

absl::Status ParseShape(const JsonFields& fields, const Architecture& names,
                        DecoderConfig* config) {
  THRESHER_ASSIGN_OR_RETURN(config->vocab_size, fields.Integer("vocab_size", 1, kMaxVocabulary));
  THRESHER_ASSIGN_OR_RETURN(config->hidden_size, fields.Integer(names.hidden_size, 1, kMaxWidth));
  THRESHER_ASSIGN_OR_RETURN(config->layers, fields.Integer(names.layers, 1, kMaxLayers));
  THRESHER_ASSIGN_OR_RETURN(config->heads, fields.Integer(names.heads, 1, kMaxHeads));
  THRESHER_ASSIGN_OR_RETURN(config->max_tokens, fields.Integer(names.positions, 1, kMaxPositions));
  THRESHER_ASSIGN_OR_RETURN(config->activation,
                            ParseActivation(fields, names.activation, names.default_activation));
  THRESHER_ASSIGN_OR_RETURN(config->tied, fields.Boolean("tie_word_embeddings", names.tied));
  config->embedding_size = config->hidden_size;
  config->kv_heads = config->heads;
  config->head_dim = config->hidden_size / config->heads;
  const bool own_head_dim =
      config->family == DecoderFamily::kLlama && fields.Find("head_dim") != nullptr;
  if (!own_head_dim && config->hidden_size % config->heads != 0) {
    return InvalidArgument("{}: field '{}' is {}, not a multiple of '{}', which is {}",
                           fields.name(), names.hidden_size, config->hidden_size, names.heads,
                           config->heads);
  }
  return absl::OkStatus();
}

absl::Status ParseGpt2(const JsonFields& fields, DecoderConfig* config) {
  THRESHER_ASSIGN_OR_RETURN(const bool crossed, fields.Boolean("add_cross_attention", false));
  if (crossed) {
    return Unimplemented("{}: field 'add_cross_attention': there is no encoder to attend to",
                         fields.name());
  }
  THRESHER_ASSIGN_OR_RETURN(config->intermediate_size,
                            fields.Integer("n_inner", 1, kMaxWide, 4 * config->hidden_size));
  THRESHER_ASSIGN_OR_RETURN(config->norm_epsilon, fields.Fraction("layer_norm_epsilon", 1e-5f));
  THRESHER_ASSIGN_OR_RETURN(config->scale_attention, fields.Boolean("scale_attn_weights", true));
  THRESHER_ASSIGN_OR_RETURN(config->scale_by_layer,
                            fields.Boolean("scale_attn_by_inverse_layer_idx", false));
  return absl::OkStatus();
}

absl::Status ParseLlama(const JsonFields& fields, DecoderConfig* config) {
  THRESHER_ASSIGN_OR_RETURN(config->intermediate_size,
                            fields.Integer("intermediate_size", 1, kMaxWide));
  THRESHER_ASSIGN_OR_RETURN(config->kv_heads,
                            fields.Integer("num_key_value_heads", 1, kMaxHeads, config->heads));
  if (config->heads % config->kv_heads != 0) {
    return InvalidArgument(
        "{}: field 'num_attention_heads' is {}, not a multiple of 'num_key_value_heads', which is "
        "{}",
        fields.name(), config->heads, config->kv_heads);
  }
  THRESHER_ASSIGN_OR_RETURN(config->head_dim,
                            fields.Integer("head_dim", 1, kMaxWidth, config->head_dim));
  THRESHER_ASSIGN_OR_RETURN(config->norm_epsilon, fields.Fraction("rms_norm_eps", 1e-6f));
  THRESHER_ASSIGN_OR_RETURN(config->attention_bias, fields.Boolean("attention_bias", false));
  THRESHER_ASSIGN_OR_RETURN(config->mlp_bias, fields.Boolean("mlp_bias", false));
  THRESHER_ASSIGN_OR_RETURN(config->rotary,
                            ParseRotary(fields, config->head_dim, &config->max_tokens));
  config->gated = true;
  config->rms_norm = true;
  return absl::OkStatus();
}

absl::Status ParseOpt(const JsonFields& fields, DecoderConfig* config) {
  THRESHER_ASSIGN_OR_RETURN(config->intermediate_size, fields.Integer("ffn_dim", 1, kMaxWide));
  THRESHER_ASSIGN_OR_RETURN(config->embedding_size, fields.Integer("word_embed_proj_dim", 1,
                                                                   kMaxWidth, config->hidden_size));
  THRESHER_ASSIGN_OR_RETURN(config->pre_norm, fields.Boolean("do_layer_norm_before", true));
  THRESHER_ASSIGN_OR_RETURN(const bool removed, fields.Boolean("_remove_final_layer_norm", false));
  THRESHER_ASSIGN_OR_RETURN(const bool bias, fields.Boolean("enable_bias", true));
  THRESHER_ASSIGN_OR_RETURN(const bool affine,
                            fields.Boolean("layer_norm_elementwise_affine", true));
  if (!affine) {
    return Unimplemented(
        "{}: field 'layer_norm_elementwise_affine' is false; norms without weights are not served",
        fields.name());
  }
  config->final_norm = config->pre_norm && !removed;
  config->attention_bias = config->mlp_bias = bias;
  config->position_offset = 2;
  return absl::OkStatus();
}

/// The ids of a field, one number or a list of them; null says that there is none.
absl::StatusOr<std::vector<int32_t>> ParseIds(const nlohmann::json& value, std::string_view field,
                                              int32_t vocab_size, std::string_view name) {
  std::vector<int32_t> ids;
  if (value.is_null()) return ids;
  const nlohmann::json list = value.is_array() ? value : nlohmann::json::array({value});
  if (list.size() > kMaxEndings) {
    return InvalidArgument("{}: field '{}' has {} ids, at most {} are taken", name, field,
                           list.size(), kMaxEndings);
  }
  for (const nlohmann::json& item : list) {
    if (!item.is_number_integer()) {
      return InvalidArgument("{}: field '{}' is not a token id or a list of them", name, field);
    }
    if (item.is_number_unsigned() && item.get<uint64_t>() >= static_cast<uint64_t>(vocab_size)) {
      continue;
    }
    const auto id = item.get<int64_t>();
    if (id < 0 || id >= vocab_size || std::ranges::find(ids, id) != ids.end()) continue;
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

absl::Status ParseEnds(const JsonFields& fields, const nlohmann::json& json,
                       std::string_view generation, const Architecture& architecture,
                       DecoderConfig* config) {
  nlohmann::json generation_json = nlohmann::json::object();
  const std::string generation_name = "generation_config.json";
  if (!generation.empty()) {
    THRESHER_ASSIGN_OR_RETURN(generation_json, ParseJson(generation, generation_name));
    THRESHER_RETURN_IF_ERROR(JsonFields::Of(generation_json, generation_name).status());
  }
  const auto ids = [&](std::string_view field,
                       int32_t published) -> absl::StatusOr<std::vector<int32_t>> {
    const std::string key(field);
    if (const auto found = generation_json.find(key);
        found != generation_json.end() && !found->is_null()) {
      return ParseIds(*found, field, config->vocab_size, generation_name);
    }
    const auto found = json.find(key);
    return ParseIds(found != json.end() ? *found : nlohmann::json(published), field,
                    config->vocab_size, fields.name());
  };
  THRESHER_ASSIGN_OR_RETURN(const std::vector<int32_t> bos, ids("bos_token_id", architecture.bos));
  if (!bos.empty()) config->bos = bos.front();
  THRESHER_ASSIGN_OR_RETURN(config->eos, ids("eos_token_id", architecture.eos));
  return absl::OkStatus();
}

}  // namespace

bool IsDecoderArchitecture(std::string_view architecture) {
  return Lookup(kArchitectures, architecture) != nullptr;
}

std::string DecoderArchitectures() { return Known(kArchitectures); }

absl::StatusOr<DecoderConfig> ParseDecoderConfig(std::string_view text, std::string_view generation,
                                                 std::string_view name) {
  THRESHER_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, name));
  THRESHER_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(json, name));
  THRESHER_ASSIGN_OR_RETURN(const Architecture* architecture, ParseArchitecture(fields));
  THRESHER_RETURN_IF_ERROR(RefuseQuantized(fields));
  DecoderConfig config;
  config.architecture = architecture->name;
  config.family = architecture->family;
  THRESHER_RETURN_IF_ERROR(ParseShape(fields, *architecture, &config));
  switch (config.family) {
    case DecoderFamily::kGpt2:
      THRESHER_RETURN_IF_ERROR(ParseGpt2(fields, &config));
      break;
    case DecoderFamily::kLlama:
      THRESHER_RETURN_IF_ERROR(ParseLlama(fields, &config));
      break;
    case DecoderFamily::kOpt:
      THRESHER_RETURN_IF_ERROR(ParseOpt(fields, &config));
      break;
  }
  THRESHER_RETURN_IF_ERROR(ParseEnds(fields, json, generation, *architecture, &config));
  return config;
}

absl::StatusOr<DecoderConfig> LoadDecoderConfig(const std::string& directory) {
  const std::string path = directory + "/config.json";
  const std::string generation_path = directory + "/generation_config.json";
  THRESHER_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxJsonBytes));
  std::string generation;
  if (IsFile(generation_path)) {
    THRESHER_ASSIGN_OR_RETURN(generation, ReadFile(generation_path, kMaxJsonBytes));
  }
  return ParseDecoderConfig(text, generation, path);
}

}  // namespace thresher
