#include "proto/json.h"

#include <google/protobuf/descriptor.h>

#include <charconv>
#include <cmath>
#include <string>
#include <utility>

namespace thresher {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

namespace {

/// A field's value, or that of its element `index` where it is repeated.
Json Value(const Message& message, const FieldDescriptor& field, int index) {
  const auto& reflection = *message.GetReflection();
#define THRESHER_GET(Type)                           \
  (index < 0 ? reflection.Get##Type(message, &field) \
             : reflection.GetRepeated##Type(message, &field, index))
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return THRESHER_GET(Int32);
    case FieldDescriptor::CPPTYPE_INT64:
      return THRESHER_GET(Int64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return THRESHER_GET(UInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return THRESHER_GET(UInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return THRESHER_GET(Double);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return JsonFloat(THRESHER_GET(Float));
    case FieldDescriptor::CPPTYPE_BOOL:
      return THRESHER_GET(Bool);
    case FieldDescriptor::CPPTYPE_ENUM:
      return THRESHER_GET(Enum)->name();
    case FieldDescriptor::CPPTYPE_STRING:
      return THRESHER_GET(String);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return index < 0 ? ToJson(reflection.GetMessage(message, &field))
                       : ToJson(reflection.GetRepeatedMessage(message, &field, index));
  }
#undef THRESHER_GET
  return nullptr;
}

/// A map's key as an object's name.
std::string KeyText(const Json& key) {
  return key.is_string() ? key.get<std::string>() : key.dump();
}

}  // namespace

Json JsonFloat(float value) {
  if (!std::isfinite(value)) return nullptr;
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  double shortest = 0;
  std::from_chars(digits, end, shortest);
  // Rounding twice (to double, then to float) may in theory miss; the exact double never does.
  return static_cast<float>(shortest) == value ? shortest : static_cast<double>(value);
}

Json JsonFloats(const google::protobuf::RepeatedField<float>& values) {
  Json list = Json::array();
  for (const float value : values) list.push_back(JsonFloat(value));
  return list;
}

Json ToJson(const Message& message) {
  const auto* descriptor = message.GetDescriptor();
  const auto& reflection = *message.GetReflection();
  Json json = Json::object();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor& field = *descriptor->field(i);
    if (field.is_map()) {
      Json map = Json::object();
      for (int j = 0; j < reflection.FieldSize(message, &field); ++j) {
        const Json entry = ToJson(reflection.GetRepeatedMessage(message, &field, j));
        map[KeyText(entry["key"])] = entry["value"];
      }
      json[field.name()] = std::move(map);
    } else if (field.is_repeated()) {
      Json list = Json::array();
      for (int j = 0; j < reflection.FieldSize(message, &field); ++j) {
        list.push_back(Value(message, field, j));
      }
      json[field.name()] = std::move(list);
    } else if (!field.has_presence() || reflection.HasField(message, &field)) {
      json[field.name()] = Value(message, field, -1);
    }
  }
  return json;
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace thresher
