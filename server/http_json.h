// JSON as it comes from strangers.
#ifndef THRESHER_SERVER_HTTP_JSON_H_
#define THRESHER_SERVER_HTTP_JSON_H_

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace thresher {

/// What was read. (proto/json.h's looks through all names of an object for each that it adds, which
/// an object of a million names would make much of.)
using HttpJson = nlohmann::json;

/// Parsing takes at most about so many times a text's size.
inline constexpr size_t kJsonGrowth = 16;

/// An object. INVALID_ARGUMENT says what is wrong and at which byte: no JSON, no object, nested
/// deeper than 64. Of several values by one name the last counts.
absl::StatusOr<HttpJson> ParseJsonObject(std::string_view text);

/// "a string", "a number", ...: what a value is, for messages.
std::string_view JsonKind(const HttpJson& value);

/// A value's JSON, cut where it is long: for messages.
std::string JsonText(const HttpJson& value);

}  // namespace thresher

#endif  // THRESHER_SERVER_HTTP_JSON_H_
