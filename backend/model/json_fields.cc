#include "backend/model/json_fields.h"

#include "backend/model/files.h"
#include "backend/tensor/status.h"

namespace thresher {

absl::StatusOr<JsonFields> JsonFields::Of(const nlohmann::json& object, std::string_view name) {
  if (!object.is_object()) return InvalidArgument("{}: not a JSON object", name);
  return JsonFields(object, name);
}

const nlohmann::json* JsonFields::Find(std::string_view field) const {
  const auto found = object_.find(std::string(field));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

absl::StatusOr<int32_t> JsonFields::Integer(std::string_view field, int32_t least, int32_t most,
                                            std::optional<int32_t> fallback) const {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    if (fallback) return *fallback;
    return InvalidArgument("{}: field '{}' is missing", name_, field);
  }
  if (!value->is_number_integer()) {
    return InvalidArgument("{}: field '{}' is {}, not an integer", name_, field,
                           value->type_name());
  }
  // Beyond int64 an unsigned number would wrap: it is out of range in any case.
  const bool huge = value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{INT32_MAX};
  const int64_t number = huge ? INT64_MAX : value->get<int64_t>();
  if (number < least || number > most) {
    return InvalidArgument("{}: field '{}' is {}, not within {} .. {}", name_, field,
                           huge ? "too large" : std::to_string(number), least, most);
  }
  return static_cast<int32_t>(number);
}

absl::StatusOr<double> JsonFields::Number(std::string_view field, double least, double most,
                                          std::optional<double> fallback) const {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    if (fallback) return *fallback;
    return InvalidArgument("{}: field '{}' is missing", name_, field);
  }
  if (!value->is_number()) {
    return InvalidArgument("{}: field '{}' is {}, not a number", name_, field, value->type_name());
  }
  const auto number = value->get<double>();
  if (!(number >= least && number <= most)) {
    return InvalidArgument("{}: field '{}' is {}, not within {} .. {}", name_, field, number, least,
                           most);
  }
  return number;
}

absl::StatusOr<float> JsonFields::Fraction(std::string_view field, float fallback) const {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return fallback;
  const double number = value->is_number() ? value->get<double>() : 0.0;
  const auto fraction = static_cast<float>(number);
  if (!(fraction > 0.0f && fraction <= 1.0f)) {
    return InvalidArgument("{}: field '{}' is not a number above 0 and at most 1", name_, field);
  }
  return fraction;
}

absl::StatusOr<bool> JsonFields::Boolean(std::string_view field, bool fallback) const {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    return InvalidArgument("{}: field '{}' is {}, not true or false", name_, field,
                           value->type_name());
  }
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonFields::String(std::string_view field,
                                               std::optional<std::string> fallback) const {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    if (fallback) return *std::move(fallback);
    return InvalidArgument("{}: field '{}' is missing", name_, field);
  }
  if (!value->is_string()) {
    return InvalidArgument("{}: field '{}' is {}, not a string", name_, field, value->type_name());
  }
  return value->get<std::string>();
}

}  // namespace thresher
