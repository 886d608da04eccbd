// Messages as JSON for people and scripts: every field under its own name, numbers as numbers.
#ifndef THRESHER_PROTO_JSON_H_
#define THRESHER_PROTO_JSON_H_

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>
#include <string>

namespace thresher {

/// Keys stay in the order in which they were set.
using Json = nlohmann::ordered_json;

/// The shortest decimal that reads back as the same float (as a JSON number, which is a double).
Json JsonFloat(float value);
Json JsonFloats(const google::protobuf::RepeatedField<float>& values);
/// Every field under its own name, numbers as numbers, whatever the schema grows to hold; messages
/// and optional fields only where they are set.
Json ToJson(const google::protobuf::Message& message);
/// One line, without its end. Bytes that are not UTF-8 become U+FFFD.
std::string Dump(const Json& json);

}  // namespace thresher

#endif  // THRESHER_PROTO_JSON_H_
