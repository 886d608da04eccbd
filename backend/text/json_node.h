// Reading JSON that may be damaged: every failure says which file and which place in it.
#ifndef THRESHER_BACKEND_TEXT_JSON_NODE_H_
#define THRESHER_BACKEND_TEXT_JSON_NODE_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "backend/tensor/status.h"

namespace thresher::text {

/// A value within a JSON document and the way to it ("tokenizer.json: model.unk_token"). The
/// document must outlive it. All errors are INVALID_ARGUMENT.
class JsonNode {
 public:
  JsonNode(const nlohmann::json* value, std::string file, std::string path = "")
      : value_(value), file_(std::move(file)), path_(std::move(path)) {}

  const nlohmann::json& value() const { return *value_; }

  /// Of an object: whether the member is there and not null.
  bool Has(const char* key) const;
  /// Of an object: a member that must be there.
  absl::StatusOr<JsonNode> Get(const char* key) const;
  /// Of an array: element i, which must be there.
  absl::StatusOr<JsonNode> At(size_t i) const;
  /// The node of a member or element that the caller found itself.
  JsonNode Child(const nlohmann::json& value, std::string_view key) const;
  JsonNode Child(const nlohmann::json& value, size_t index) const;

  absl::Status ExpectObject() const;
  absl::Status ExpectArray() const;
  absl::StatusOr<std::string> String() const;
  absl::StatusOr<bool> Bool() const;
  /// A whole number from `least` to `most`.
  absl::StatusOr<int64_t> Integer(int64_t least, int64_t most) const;

  /// Members of an object; the default where the member is absent or null.
  absl::StatusOr<std::string> StringOr(const char* key, std::string_view otherwise) const;
  absl::StatusOr<bool> BoolOr(const char* key, bool otherwise) const;

  /// "tokenizer.json: model.vocab".
  std::string Where() const;
  template <typename... Args>
  absl::Status Error(fmt::format_string<Args...> format, Args&&... args) const {
    return InvalidArgument("{}: {}", Where(), fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  const nlohmann::json* value_;
  std::string file_;
  std::string path_;
};

/// Parses a file; `name` is what errors call it.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view contents, std::string_view name);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_JSON_NODE_H_
