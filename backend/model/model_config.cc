#include "backend/model/model_config.h"

#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "backend/model/config_fields.h"
#include "backend/model/decoder_config.h"
#include "backend/model/files.h"
#include "backend/model/json_fields.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int32_t kMaxTypes = 1'024;
constexpr int32_t kMaxLabels = 1'000'000;

struct Architecture {
  std::string_view name;
  Family family;
  Task task;
};

// Masked language models serve as plain ones: their encoder gives embeddings, their head is left
// out.
constexpr std::array kArchitectures = {
    Architecture{"BertModel", Family::kBert, Task::kNone},
    Architecture{"BertForMaskedLM", Family::kBert, Task::kNone},
    Architecture{"BertForPreTraining", Family::kBert, Task::kNone},
    Architecture{"BertForSequenceClassification", Family::kBert, Task::kSequenceClassification},
    Architecture{"BertForTokenClassification", Family::kBert, Task::kTokenClassification},
    Architecture{"BertForQuestionAnswering", Family::kBert, Task::kQuestionAnswering},
    Architecture{"RobertaModel", Family::kRoberta, Task::kNone},
    Architecture{"RobertaForMaskedLM", Family::kRoberta, Task::kNone},
    Architecture{"RobertaForSequenceClassification", Family::kRoberta,
                 Task::kSequenceClassification},
    Architecture{"RobertaForTokenClassification", Family::kRoberta, Task::kTokenClassification},
    Architecture{"RobertaForQuestionAnswering", Family::kRoberta, Task::kQuestionAnswering},
    Architecture{"XLMRobertaModel", Family::kRoberta, Task::kNone},
    Architecture{"XLMRobertaForMaskedLM", Family::kRoberta, Task::kNone},
    Architecture{"XLMRobertaForSequenceClassification", Family::kRoberta,
                 Task::kSequenceClassification},
    Architecture{"XLMRobertaForTokenClassification", Family::kRoberta, Task::kTokenClassification},
    Architecture{"XLMRobertaForQuestionAnswering", Family::kRoberta, Task::kQuestionAnswering},
    Architecture{"CamembertModel", Family::kRoberta, Task::kNone},
    Architecture{"CamembertForMaskedLM", Family::kRoberta, Task::kNone},
    Architecture{"CamembertForSequenceClassification", Family::kRoberta,
                 Task::kSequenceClassification},
    Architecture{"CamembertForTokenClassification", Family::kRoberta, Task::kTokenClassification},
    Architecture{"CamembertForQuestionAnswering", Family::kRoberta, Task::kQuestionAnswering},
    Architecture{"DistilBertModel", Family::kDistilBert, Task::kNone},
    Architecture{"DistilBertForMaskedLM", Family::kDistilBert, Task::kNone},
    Architecture{"DistilBertForSequenceClassification", Family::kDistilBert,
                 Task::kSequenceClassification},
    Architecture{"DistilBertForTokenClassification", Family::kDistilBert,
                 Task::kTokenClassification},
    Architecture{"DistilBertForQuestionAnswering", Family::kDistilBert, Task::kQuestionAnswering},
};

struct ModelType {
  std::string_view name;
  Family family;
};
constexpr std::array kModelTypes = {
    ModelType{"bert", Family::kBert},
    ModelType{"roberta", Family::kRoberta},
    ModelType{"xlm-roberta", Family::kRoberta},
    ModelType{"camembert", Family::kRoberta},
    ModelType{"distilbert", Family::kDistilBert},
};

struct NamedAttention {
  std::string_view name;
  AttentionKind kind;
};
constexpr std::array kAttentionKinds = {
    NamedAttention{"softmax", AttentionKind::kSoftmax},
    NamedAttention{"flow", AttentionKind::kFlow},
    NamedAttention{"flow_causal", AttentionKind::kCausalFlow},
};

/// How a family spells the fields that all have.
struct FieldNames {
  std::string_view hidden_size, layers, heads, intermediate_size, activation;
};
constexpr FieldNames kBertFields = {"hidden_size", "num_hidden_layers", "num_attention_heads",
                                    "intermediate_size", "hidden_act"};
constexpr FieldNames kDistilBertFields = {"dim", "n_layers", "n_heads", "hidden_dim", "activation"};

absl::Status ParseArchitecture(const JsonFields& fields, ModelConfig* config) {
  THRESHER_ASSIGN_OR_RETURN(const std::string name, ArchitectureName(fields));
  const Architecture* known = Lookup(kArchitectures, name);
  if (known == nullptr && IsDecoderArchitecture(name)) {
    return Unimplemented("{}: architecture '{}' is a decoder; what is asked for needs one of {}",
                         fields.name(), name, Known(kArchitectures));
  }
  if (known == nullptr) {
    return Unimplemented("{}: architecture '{}' is not one of {}, {}", fields.name(), Shorten(name),
                         Known(kArchitectures), DecoderArchitectures());
  }
  config->architecture = name;
  config->family = known->family;
  config->task = known->task;

  THRESHER_ASSIGN_OR_RETURN(const std::string type, fields.String("model_type", ""));
  const ModelType* model_type = Lookup(kModelTypes, type);
  if (!type.empty() && (model_type == nullptr || model_type->family != config->family)) {
    return InvalidArgument("{}: field 'model_type' is '{}', which contradicts architecture '{}'",
                           fields.name(), Shorten(type), name);
  }
  return absl::OkStatus();
}

/// Refuses what changes the network in a way that is not computed here.
absl::Status CheckUnsupported(const JsonFields& fields) {
  for (const std::string_view field : {"is_decoder", "add_cross_attention"}) {
    THRESHER_ASSIGN_OR_RETURN(const bool set, fields.Boolean(field, false));
    if (set) return Unimplemented("{}: field '{}': decoders are not served", fields.name(), field);
  }
  const nlohmann::json* pruned = fields.Find("pruned_heads");
  if (pruned != nullptr && !pruned->empty()) {
    return Unimplemented("{}: field 'pruned_heads': layers of different widths are not served",
                         fields.name());
  }
  THRESHER_RETURN_IF_ERROR(RefuseQuantized(fields));
  THRESHER_ASSIGN_OR_RETURN(const std::string position,
                            fields.String("position_embedding_type", "absolute"));
  if (position != "absolute") {
    return Unimplemented("{}: field 'position_embedding_type' is '{}'; only 'absolute' is served",
                         fields.name(), Shorten(position));
  }
  return absl::OkStatus();
}

/// id2label as a list: its keys must be 0 .. n - 1.
absl::StatusOr<std::vector<std::string>> ParseLabels(const nlohmann::json& map,
                                                     const JsonFields& fields) {
  if (!map.is_object() || map.empty() || map.size() > kMaxLabels) {
    return InvalidArgument("{}: field 'id2label' is not an object of 1 .. {} labels", fields.name(),
                           kMaxLabels);
  }
  std::vector<std::string> labels(map.size());
  std::vector<bool> seen(map.size());
  for (const auto& [key, label] : map.items()) {
    size_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id >= labels.size() || seen[id]) {
      return InvalidArgument("{}: field 'id2label': the ids must be 0 .. {}, each once; found '{}'",
                             fields.name(), labels.size() - 1, Shorten(key));
    }
    if (!label.is_string()) {
      return InvalidArgument("{}: field 'id2label': label {} is not a string", fields.name(), id);
    }
    seen[id] = true;
    labels[id] = label.get<std::string>();
  }
  return labels;
}

absl::Status ParseHead(const JsonFields& fields, ModelConfig* config) {
  if (config->task == Task::kNone || config->task == Task::kQuestionAnswering) {
    return absl::OkStatus();
  }
  THRESHER_ASSIGN_OR_RETURN(const int32_t num_labels,
                            fields.Integer("num_labels", 1, kMaxLabels, 0));
  if (const nlohmann::json* map = fields.Find("id2label"); map != nullptr) {
    THRESHER_ASSIGN_OR_RETURN(config->labels, ParseLabels(*map, fields));
    if (num_labels != 0 && static_cast<size_t>(num_labels) != config->labels.size()) {
      return InvalidArgument("{}: field 'num_labels' is {}, but 'id2label' has {} labels",
                             fields.name(), num_labels, config->labels.size());
    }
  } else {
    // A file that names no labels means the library's default, two of them.
    const int32_t count = num_labels != 0 ? num_labels : 2;
    for (int32_t i = 0; i < count; ++i) config->labels.push_back(fmt::format("LABEL_{}", i));
  }
  THRESHER_ASSIGN_OR_RETURN(const std::string problem, fields.String("problem_type", ""));
  if (!problem.empty() && problem != "single_label_classification" &&
      problem != "multi_label_classification" && problem != "regression") {
    return InvalidArgument("{}: field 'problem_type' is '{}', not a known one", fields.name(),
                           Shorten(problem));
  }
  config->multi_label = problem == "multi_label_classification";
  return absl::OkStatus();
}

absl::Status ParseShape(const JsonFields& fields, ModelConfig* config) {
  const bool distil = config->family == Family::kDistilBert;
  const FieldNames& names = distil ? kDistilBertFields : kBertFields;
  THRESHER_ASSIGN_OR_RETURN(config->vocab_size, fields.Integer("vocab_size", 1, kMaxVocabulary));
  THRESHER_ASSIGN_OR_RETURN(config->hidden_size, fields.Integer(names.hidden_size, 1, kMaxWidth));
  THRESHER_ASSIGN_OR_RETURN(config->layers, fields.Integer(names.layers, 1, kMaxLayers));
  THRESHER_ASSIGN_OR_RETURN(config->heads, fields.Integer(names.heads, 1, kMaxHeads));
  THRESHER_ASSIGN_OR_RETURN(config->intermediate_size,
                            fields.Integer(names.intermediate_size, 1, kMaxWidth));
  THRESHER_ASSIGN_OR_RETURN(config->positions,
                            fields.Integer("max_position_embeddings", 1, kMaxPositions));
  if (config->hidden_size % config->heads != 0) {
    return InvalidArgument("{}: field '{}' is {}, not a multiple of '{}', which is {}",
                           fields.name(), names.hidden_size, config->hidden_size, names.heads,
                           config->heads);
  }
  if (!distil) {
    THRESHER_ASSIGN_OR_RETURN(config->type_vocab_size,
                              fields.Integer("type_vocab_size", 1, kMaxTypes, 2));
    THRESHER_ASSIGN_OR_RETURN(config->layer_norm_epsilon,
                              fields.Fraction("layer_norm_eps", 1e-12f));
  }
  const bool roberta = config->family == Family::kRoberta;
  THRESHER_ASSIGN_OR_RETURN(
      config->pad_token_id,
      fields.Integer("pad_token_id", 0, config->vocab_size - 1, roberta ? 1 : 0));
  if (roberta) {
    config->first_position = config->pad_token_id + 1;
    if (config->first_position >= config->positions) {
      return InvalidArgument(
          "{}: field 'max_position_embeddings' is {}, which leaves no position after "
          "'pad_token_id', which is {}",
          fields.name(), config->positions, config->pad_token_id);
    }
  }
  THRESHER_ASSIGN_OR_RETURN(config->activation, ParseActivation(fields, names.activation, "gelu"));
  THRESHER_ASSIGN_OR_RETURN(const std::string attention,
                            fields.String("attention_type", "softmax"));
  const NamedAttention* kind = Lookup(kAttentionKinds, attention);
  if (kind == nullptr) {
    return Unimplemented("{}: field 'attention_type' is '{}', which is not one of {}",
                         fields.name(), Shorten(attention), Known(kAttentionKinds));
  }
  config->attention = kind->kind;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view text, std::string_view name) {
  THRESHER_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, name));
  THRESHER_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(json, name));
  ModelConfig config;
  THRESHER_RETURN_IF_ERROR(ParseArchitecture(fields, &config));
  THRESHER_RETURN_IF_ERROR(CheckUnsupported(fields));
  THRESHER_RETURN_IF_ERROR(ParseShape(fields, &config));
  THRESHER_RETURN_IF_ERROR(ParseHead(fields, &config));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory) {
  const std::string path = directory + "/config.json";
  THRESHER_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxJsonBytes));
  return ParseModelConfig(text, path);
}

}  // namespace thresher
