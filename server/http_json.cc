#include "server/http_json.h"

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int kMaxDepth = 64;

/// Code that walks over values recurses, and the walk is bounded here, before there are any.
bool TooDeep(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<HttpJson> ParseJsonObject(std::string_view text) {
  if (TooDeep(text)) return InvalidArgument("the JSON is nested deeper than {}", kMaxDepth);
  try {
    HttpJson json = HttpJson::parse(text);
    if (!json.is_object()) {
      return InvalidArgument("the body must be a JSON object, and is {}", JsonKind(json));
    }
    return json;
  } catch (const HttpJson::parse_error& error) {
    if (text.empty()) return InvalidArgument("the body is empty; send a JSON object");
    return InvalidArgument("the body is not JSON: wrong at byte {}", error.byte);
  } catch (const HttpJson::exception& error) {  // A number that no double holds.
    return InvalidArgument("the body is not JSON: {}", error.what());
  }
}

std::string_view JsonKind(const HttpJson& value) {
  switch (value.type()) {
    case HttpJson::value_t::null:
      return "null";
    case HttpJson::value_t::object:
      return "an object";
    case HttpJson::value_t::array:
      return "a list";
    case HttpJson::value_t::string:
      return "a string";
    case HttpJson::value_t::boolean:
      return "true or false";
    default:
      return "a number";
  }
}

std::string JsonText(const HttpJson& value) {
  constexpr size_t kMost = 64;
  // A long list is not written for the sake of its beginning.
  if (value.is_structured() && value.size() > kMost) return std::string(JsonKind(value));
  std::string text = value.dump(-1, ' ', false, HttpJson::error_handler_t::replace);
  if (text.size() <= kMost) return text;
  return std::string(JsonKind(value));
}

}  // namespace thresher
