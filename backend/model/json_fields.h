// Typed, range-checked reading of the fields of a JSON object. Errors name the file and the field.
#ifndef THRESHER_BACKEND_MODEL_JSON_FIELDS_H_
#define THRESHER_BACKEND_MODEL_JSON_FIELDS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace thresher {

/// A field that is absent or null takes `fallback`, and is an error where there is none.
class JsonFields {
 public:
  /// `object` must outlive this; `name` is what errors call it. INVALID_ARGUMENT if it is no
  /// object.
  static absl::StatusOr<JsonFields> Of(const nlohmann::json& object, std::string_view name);

  const std::string& name() const { return name_; }

  /// Null if absent, or JSON null.
  const nlohmann::json* Find(std::string_view field) const;

  absl::StatusOr<int32_t> Integer(std::string_view field, int32_t least, int32_t most,
                                  std::optional<int32_t> fallback = std::nullopt) const;
  absl::StatusOr<double> Number(std::string_view field, double least, double most,
                                std::optional<double> fallback = std::nullopt) const;
  /// A positive number, at most 1.
  absl::StatusOr<float> Fraction(std::string_view field, float fallback) const;
  absl::StatusOr<bool> Boolean(std::string_view field, bool fallback) const;
  absl::StatusOr<std::string> String(std::string_view field,
                                     std::optional<std::string> fallback = std::nullopt) const;

 private:
  JsonFields(const nlohmann::json& object, std::string_view name) : object_(object), name_(name) {}

  const nlohmann::json& object_;
  std::string name_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_JSON_FIELDS_H_
