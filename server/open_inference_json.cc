#include "server/open_inference_json.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "backend/tensor/status.h"
#include "proto/json.h"
#include "server/http_json.h"

namespace thresher {
namespace {

using inference::InferParameter;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using Parameters = google::protobuf::Map<std::string, InferParameter>;

constexpr const char* kBinarySize = "binary_data_size";
constexpr const char* kBinaryData = "binary_data";
constexpr const char* kBinaryOutput = "binary_data_output";

template <typename... Args>
absl::Status Bad(const std::string& tensor, fmt::format_string<Args...> format, Args&&... args) {
  return InvalidArgument("tensor '{}': {}", tensor,
                         fmt::format(format, std::forward<Args>(args)...));
}

/// The value by this name, null if there is none.
const HttpJson* Find(const HttpJson& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

absl::StatusOr<std::string> ReadString(const HttpJson& object, const char* name, const char* of) {
  const HttpJson* const value = Find(object, name);
  if (value == nullptr) return InvalidArgument("{} without '{}'", of, name);
  if (value->is_string()) return value->get<std::string>();
  return InvalidArgument("'{}' of {} must be a string, and is {}", name, of, JsonKind(*value));
}

/// Lists and objects become their JSON text, which is what a parameter of many values is in gRPC.
absl::Status ReadParameters(const HttpJson& object, Parameters* out) {
  const HttpJson* const parameters = Find(object, "parameters");
  if (parameters == nullptr) return absl::OkStatus();
  if (!parameters->is_object()) {
    return InvalidArgument("'parameters' must be an object, and is {}", JsonKind(*parameters));
  }
  for (const auto& [name, value] : parameters->items()) {
    if (value.is_null()) continue;
    InferParameter& parameter = (*out)[name];
    if (value.is_boolean()) {
      parameter.set_bool_param(value.get<bool>());
    } else if (value.is_number_float()) {
      parameter.set_double_param(value.get<double>());
    } else if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) {
      parameter.set_uint64_param(value.get<uint64_t>());
    } else if (value.is_number()) {
      parameter.set_int64_param(value.get<int64_t>());
    } else if (value.is_string()) {
      parameter.set_string_param(value.get<std::string>());
    } else {
      parameter.set_string_param(value.dump());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> ReadFlag(const Parameters& parameters, const char* name, bool otherwise) {
  const auto found = parameters.find(name);
  if (found == parameters.end()) return otherwise;
  if (found->second.parameter_choice_case() == InferParameter::kBoolParam) {
    return found->second.bool_param();
  }
  return InvalidArgument("parameter '{}' must be true or false", name);
}

template <typename T>
absl::Status AppendInteger(const std::string& name, const HttpJson& value, std::string* raw) {
  const bool fits = value.is_number_integer() &&
                    (value.is_number_unsigned() ? std::in_range<T>(value.get<uint64_t>())
                                                : std::in_range<T>(value.get<int64_t>()));
  if (!fits) {
    return Bad(name, "{} is no whole number of {} bits", JsonText(value), 8 * sizeof(T));
  }
  const T number = value.get<T>();
  raw->append(reinterpret_cast<const char*>(&number), sizeof(number));
  return absl::OkStatus();
}

/// All values of a flat or nested list, in order. As deep as ParseJsonObject allows.
absl::Status AppendValues(const std::string& name, const std::string& datatype,
                          const HttpJson& data, std::string* raw) {
  if (data.is_array()) {
    for (const HttpJson& item : data) {
      THRESHER_RETURN_IF_ERROR(AppendValues(name, datatype, item, raw));
    }
    return absl::OkStatus();
  }
  if (datatype == "INT32") return AppendInteger<int32_t>(name, data, raw);
  if (datatype == "INT64") return AppendInteger<int64_t>(name, data, raw);
  if (!data.is_string()) return Bad(name, "BYTES are strings, and one is {}", JsonKind(data));
  const auto& text = data.get_ref<const std::string&>();
  const auto length = static_cast<uint32_t>(text.size());
  raw->append(reinterpret_cast<const char*>(&length), sizeof(length));
  raw->append(text);
  return absl::OkStatus();
}

absl::Status ReadShape(const HttpJson& tensor, const std::string& name,
                       google::protobuf::RepeatedField<int64_t>* out) {
  const HttpJson* const shape = Find(tensor, "shape");
  if (shape == nullptr || !shape->is_array()) return Bad(name, "'shape' must be a list of sizes");
  for (const HttpJson& size : *shape) {
    if (!size.is_number_integer() ||
        (size.is_number_unsigned() && size.get<uint64_t>() > INT64_MAX)) {
      return Bad(name, "'shape' must be a list of sizes, and has {}", JsonText(size));
    }
    out->Add(size.get<int64_t>());
  }
  return absl::OkStatus();
}

/// One input; its bytes, if it is a binary one, are taken from the front of `binary`.
absl::Status ReadInput(const HttpJson& json, std::string_view* binary, ModelInferRequest* request) {
  if (!json.is_object()) return InvalidArgument("an input must be an object");
  auto& tensor = *request->add_inputs();
  THRESHER_ASSIGN_OR_RETURN(const std::string name, ReadString(json, "name", "an input"));
  tensor.set_name(name);
  THRESHER_ASSIGN_OR_RETURN(const std::string datatype, ReadString(json, "datatype", "an input"));
  tensor.set_datatype(datatype);
  THRESHER_RETURN_IF_ERROR(ReadShape(json, name, tensor.mutable_shape()));
  THRESHER_RETURN_IF_ERROR(ReadParameters(json, tensor.mutable_parameters()));

  std::string& raw = *request->add_raw_input_contents();
  const HttpJson* const data = Find(json, "data");
  const auto size = tensor.parameters().find(kBinarySize);
  if (size == tensor.parameters().end()) {
    if (data == nullptr) return absl::OkStatus();  // Of shared memory, or none: refused later.
    if (datatype != "BYTES" && datatype != "INT32" && datatype != "INT64") {
      return Bad(name, "datatype '{}', expected BYTES, INT32 or INT64", datatype);
    }
    if (!data->is_array()) return Bad(name, "'data' must be a list, and is {}", JsonKind(*data));
    return AppendValues(name, datatype, *data, &raw);
  }
  if (data != nullptr) return Bad(name, "both 'data' and {}; send one of them", kBinarySize);
  const int64_t bytes = size->second.parameter_choice_case() == InferParameter::kInt64Param
                            ? size->second.int64_param()
                            : -1;
  if (bytes < 0) return Bad(name, "parameter {} must be a number of bytes", kBinarySize);
  if (static_cast<uint64_t>(bytes) > binary->size()) {
    return Bad(name, "has {} bytes after the JSON, but {} are left", bytes, binary->size());
  }
  raw = binary->substr(0, static_cast<size_t>(bytes));
  binary->remove_prefix(static_cast<size_t>(bytes));
  tensor.mutable_parameters()->erase(kBinarySize);
  return absl::OkStatus();
}

/// The list by this name; empty if there is none.
absl::StatusOr<const HttpJson*> ReadList(const HttpJson& object, const char* name) {
  static const HttpJson kNone = HttpJson::array();
  const HttpJson* const list = Find(object, name);
  if (list == nullptr || list->is_null()) return &kNone;
  if (list->is_array()) return list;
  return InvalidArgument("'{}' must be a list, and is {}", name, JsonKind(*list));
}

Json ParameterJson(const InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case InferParameter::kBoolParam:
      return parameter.bool_param();
    case InferParameter::kInt64Param:
      return parameter.int64_param();
    case InferParameter::kUint64Param:
      return parameter.uint64_param();
    case InferParameter::kDoubleParam:
      return parameter.double_param();
    case InferParameter::kStringParam:
      return parameter.string_param();
    case InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return nullptr;
}

template <typename T>
T Load(std::string_view raw, size_t at) {
  T value;
  std::memcpy(&value, raw.data() + at, sizeof(value));
  return value;
}

/// The values of an output of ours, which are FP32, INT32 or BYTES.
Json DataJson(std::string_view datatype, std::string_view raw) {
  Json data = Json::array();
  if (datatype == "BYTES") {
    while (raw.size() >= sizeof(uint32_t)) {
      const auto length = Load<uint32_t>(raw, 0);
      raw.remove_prefix(sizeof(length));
      data.push_back(raw.substr(0, length));
      raw.remove_prefix(std::min<size_t>(length, raw.size()));
    }
    return data;
  }
  for (size_t at = 0; at + sizeof(float) <= raw.size(); at += sizeof(float)) {
    if (datatype == "FP32") {
      data.push_back(JsonFloat(Load<float>(raw, at)));
    } else {
      data.push_back(Load<int32_t>(raw, at));
    }
  }
  return data;
}

}  // namespace

bool OutputForms::IsBinary(std::string_view name) const {
  const auto found = by_name.find(name);
  return found == by_name.end() ? binary : found->second;
}

absl::StatusOr<InferJson> ReadInferJson(std::string_view body, std::optional<size_t> json_bytes) {
  if (json_bytes && *json_bytes > body.size()) {
    return InvalidArgument(
        "header Inference-Header-Content-Length is {}, and the body has {} bytes", *json_bytes,
        body.size());
  }
  const std::string_view text = body.substr(0, json_bytes.value_or(body.size()));
  std::string_view binary = body.substr(text.size());
  THRESHER_ASSIGN_OR_RETURN(const HttpJson json, ParseJsonObject(text));
  InferJson out;
  if (const HttpJson* const id = Find(json, "id"); id != nullptr && !id->is_null()) {
    if (!id->is_string()) return InvalidArgument("'id' must be a string, and is {}", JsonKind(*id));
    out.request.set_id(id->get<std::string>());
  }
  Parameters& parameters = *out.request.mutable_parameters();
  THRESHER_RETURN_IF_ERROR(ReadParameters(json, &parameters));
  THRESHER_ASSIGN_OR_RETURN(out.outputs.binary, ReadFlag(parameters, kBinaryOutput, false));
  parameters.erase(kBinaryOutput);
  THRESHER_ASSIGN_OR_RETURN(const HttpJson* const inputs, ReadList(json, "inputs"));
  for (const HttpJson& input : *inputs) {
    THRESHER_RETURN_IF_ERROR(ReadInput(input, &binary, &out.request));
  }
  if (!binary.empty()) {
    return InvalidArgument("{} bytes after the JSON belong to no input; its {} tells how many do",
                           binary.size(), kBinarySize);
  }
  THRESHER_ASSIGN_OR_RETURN(const HttpJson* const outputs, ReadList(json, "outputs"));
  for (const HttpJson& output : *outputs) {
    if (!output.is_object()) return InvalidArgument("an output must be an object");
    auto& asked = *out.request.add_outputs();
    THRESHER_ASSIGN_OR_RETURN(const std::string name, ReadString(output, "name", "an output"));
    asked.set_name(name);
    THRESHER_RETURN_IF_ERROR(ReadParameters(output, asked.mutable_parameters()));
    THRESHER_ASSIGN_OR_RETURN(out.outputs.by_name[name],
                              ReadFlag(asked.parameters(), kBinaryData, out.outputs.binary));
  }
  return out;
}

InferBody WriteInferJson(const ModelInferResponse& response, const OutputForms& outputs) {
  Json json;
  json["model_name"] = response.model_name();
  json["model_version"] = response.model_version();
  if (!response.id().empty()) json["id"] = response.id();
  // A map's order is chance; sorted, the same answer has the same bytes.
  const std::map<std::string, InferParameter> parameters(response.parameters().begin(),
                                                         response.parameters().end());
  for (const auto& [name, value] : parameters) json["parameters"][name] = ParameterJson(value);
  json["outputs"] = Json::array();
  std::string binary;
  bool any_binary = false;
  for (int i = 0; i < std::min(response.outputs_size(), response.raw_output_contents_size()); ++i) {
    const auto& output = response.outputs(i);
    const std::string& raw = response.raw_output_contents(i);
    Json tensor;
    tensor["name"] = output.name();
    tensor["datatype"] = output.datatype();
    tensor["shape"] = Json::array();
    for (const int64_t size : output.shape()) tensor["shape"].push_back(size);
    if (outputs.IsBinary(output.name())) {
      tensor["parameters"][kBinarySize] = raw.size();
      binary += raw;
      any_binary = true;
    } else {
      tensor["data"] = DataJson(output.datatype(), raw);
    }
    json["outputs"].push_back(std::move(tensor));
  }
  InferBody body = {Dump(json), std::nullopt};
  if (any_binary) {
    body.json_bytes = body.bytes.size();
    body.bytes += binary;
  }
  return body;
}

}  // namespace thresher
