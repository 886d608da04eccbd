#include "backend/model/config_fields.h"

#include <array>
#include <nlohmann/json.hpp>

#include "backend/model/files.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

struct NamedActivation {
  std::string_view name;
  Activation activation;
};
constexpr std::array kActivations = {
    NamedActivation{"gelu", Activation::kGelu},
    NamedActivation{"gelu_python", Activation::kGelu},
    NamedActivation{"gelu_new", Activation::kGeluTanh},
    NamedActivation{"gelu_pytorch_tanh", Activation::kGeluTanh},
    NamedActivation{"relu", Activation::kRelu},
    NamedActivation{"silu", Activation::kSilu},
    NamedActivation{"swish", Activation::kSilu},
};

}  // namespace

absl::StatusOr<std::string> ArchitectureName(const JsonFields& fields) {
  const nlohmann::json* list = fields.Find("architectures");
  if (list == nullptr || !list->is_array() || list->empty()) {
    return InvalidArgument("{}: field 'architectures' is missing or not a list of names",
                           fields.name());
  }
  if (list->size() != 1 || !list->front().is_string()) {
    return InvalidArgument("{}: field 'architectures' must hold one name", fields.name());
  }
  return list->front().get<std::string>();
}

absl::StatusOr<std::string> LoadArchitectureName(const std::string& directory) {
  const std::string path = directory + "/config.json";
  THRESHER_ASSIGN_OR_RETURN(const nlohmann::json json, ReadJson(path));
  THRESHER_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(json, path));
  return ArchitectureName(fields);
}

absl::StatusOr<Activation> ParseActivation(const JsonFields& fields, std::string_view field,
                                           std::string_view fallback) {
  THRESHER_ASSIGN_OR_RETURN(const std::string name, fields.String(field, std::string(fallback)));
  const NamedActivation* activation = Lookup(kActivations, name);
  if (activation == nullptr) {
    return Unimplemented("{}: field '{}' is '{}', not one of {}", fields.name(), field,
                         Shorten(name), Known(kActivations));
  }
  return activation->activation;
}

absl::Status RefuseQuantized(const JsonFields& fields) {
  if (fields.Find("quantization_config") == nullptr) return absl::OkStatus();
  return Unimplemented("{}: field 'quantization_config': quantized checkpoints are not served",
                       fields.name());
}

}  // namespace thresher
