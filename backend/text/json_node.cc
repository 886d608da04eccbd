#include "backend/text/json_node.h"

#include <utility>

namespace thresher::text {

using nlohmann::json;

bool JsonNode::Has(const char* key) const {
  if (!value_->is_object()) return false;
  const auto member = value_->find(key);
  return member != value_->end() && !member->is_null();
}

absl::StatusOr<JsonNode> JsonNode::Get(const char* key) const {
  THRESHER_RETURN_IF_ERROR(ExpectObject());
  const auto member = value_->find(key);
  if (member == value_->end()) return Error("'{}' is missing", key);
  return Child(*member, key);
}

absl::StatusOr<JsonNode> JsonNode::At(size_t i) const {
  THRESHER_RETURN_IF_ERROR(ExpectArray());
  if (i >= value_->size()) return Error("has {} elements, expected more", value_->size());
  return Child((*value_)[i], i);
}

JsonNode JsonNode::Child(const json& value, std::string_view key) const {
  return {&value, file_, path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key)};
}

JsonNode JsonNode::Child(const json& value, size_t index) const {
  return {&value, file_, fmt::format("{}[{}]", path_, index)};
}

absl::Status JsonNode::ExpectObject() const {
  if (value_->is_object()) return absl::OkStatus();
  return Error("expected an object, found {}", value_->type_name());
}

absl::Status JsonNode::ExpectArray() const {
  if (value_->is_array()) return absl::OkStatus();
  return Error("expected an array, found {}", value_->type_name());
}

absl::StatusOr<std::string> JsonNode::String() const {
  if (value_->is_string()) return value_->get_ref<const std::string&>();
  return Error("expected a string, found {}", value_->type_name());
}

absl::StatusOr<bool> JsonNode::Bool() const {
  if (value_->is_boolean()) return value_->get<bool>();
  return Error("expected true or false, found {}", value_->type_name());
}

absl::StatusOr<int64_t> JsonNode::Integer(int64_t least, int64_t most) const {
  if (!value_->is_number_integer()) {
    return Error("expected a whole number, found {}", value_->type_name());
  }
  // A number past the range of int64_t is unsigned, and not what anybody expects.
  const bool huge =
      value_->is_number_unsigned() && value_->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  const int64_t number = huge ? INT64_MAX : value_->get<int64_t>();
  if (huge || number < least || number > most) {
    return Error("{} is not between {} and {}", value_->dump(), least, most);
  }
  return number;
}

absl::StatusOr<std::string> JsonNode::StringOr(const char* key, std::string_view otherwise) const {
  THRESHER_RETURN_IF_ERROR(ExpectObject());
  if (!Has(key)) return std::string(otherwise);
  return Child((*value_)[key], key).String();
}

absl::StatusOr<bool> JsonNode::BoolOr(const char* key, bool otherwise) const {
  THRESHER_RETURN_IF_ERROR(ExpectObject());
  if (!Has(key)) return otherwise;
  return Child((*value_)[key], key).Bool();
}

std::string JsonNode::Where() const {
  return path_.empty() ? file_ : fmt::format("{}: {}", file_, path_);
}

absl::StatusOr<json> ParseJson(std::string_view contents, std::string_view name) {
  try {
    return json::parse(contents);
  } catch (const json::exception& error) {
    // The library says line, column and what it expected.
    return InvalidArgument("{}: not valid JSON: {}", name, error.what());
  }
}

}  // namespace thresher::text
