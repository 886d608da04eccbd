#include "server/model_flag.h"

#include <charconv>
#include <optional>
#include <set>

#include "backend/tensor/status.h"
#include "server/config.h"

namespace thresher {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

template <typename Integer>
std::optional<Integer> ParseInteger(std::string_view text) {
  Integer value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

absl::Status ParseVersions(std::string_view text, v1::VersionPolicy* policy) {
  if (text == "all") {
    policy->mutable_all();
    return absl::OkStatus();
  }
  if (text == "latest") {
    policy->mutable_latest();
    return absl::OkStatus();
  }
  if (text.starts_with("latest:")) {
    const auto count = ParseInteger<int32_t>(text.substr(7));
    if (count.has_value() && *count > 0) {
      policy->mutable_latest()->set_count(*count);
      return absl::OkStatus();
    }
  } else if (text.starts_with("named:")) {
    bool good = true;
    for (const std::string_view part : Split(text.substr(6), ';')) {
      const auto version = ParseInteger<int64_t>(part);
      good = good && version.has_value() && *version > 0;
      if (good) policy->mutable_named()->add_versions(*version);
    }
    if (good) return absl::OkStatus();
  }
  return InvalidArgument("'versions={}': expected latest:COUNT, all or named:N;N...", text);
}

absl::Status ParseOption(std::string_view key, std::string_view value, v1::ModelConfig* config) {
  if (key == "precision") {
    config->set_precision(std::string(value));
  } else if (key == "device") {
    config->set_device(std::string(value));
  } else if (key == "pooling") {
    config->set_pooling(std::string(value));
  } else if (key == "normalize") {
    if (value != "true" && value != "false") {
      return InvalidArgument("'normalize={}': expected true or false", value);
    }
    config->set_normalize(value == "true");
  } else if (key == "max_tokens") {
    const auto number = ParseInteger<int32_t>(value);
    if (!number.has_value() || *number < 1) {
      return InvalidArgument("'max_tokens={}': expected a whole number from 1", value);
    }
    config->set_max_tokens(*number);
  } else if (key == "versions") {
    return ParseVersions(value, config->mutable_versions());
  } else {
    return InvalidArgument(
        "'{}': no such option; there are precision, device, pooling, normalize, max_tokens and "
        "versions",
        key);
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::ModelConfig> Parse(std::string_view text) {
  const std::vector<std::string_view> parts = Split(text, ',');
  const size_t equals = parts[0].find('=');
  if (equals == std::string_view::npos) {
    return InvalidArgument("'{}' is not NAME=DIR", parts[0]);
  }
  v1::ModelConfig config;
  config.set_name(std::string(parts[0].substr(0, equals)));
  config.set_path(std::string(parts[0].substr(equals + 1)));
  std::set<std::string_view> seen;
  for (size_t i = 1; i < parts.size(); ++i) {
    const size_t at = parts[i].find('=');
    if (at == std::string_view::npos) {
      return InvalidArgument("'{}' is not KEY=VALUE", parts[i]);
    }
    const std::string_view key = parts[i].substr(0, at);
    if (!seen.insert(key).second) return InvalidArgument("'{}' is given twice", key);
    THRESHER_RETURN_IF_ERROR(ParseOption(key, parts[i].substr(at + 1), &config));
  }
  THRESHER_RETURN_IF_ERROR(ValidateModelConfig(config));
  return config;
}

/// True where `text` begins as a value of --model does: a name and then '='.
bool BeginsModel(std::string_view text) {
  const size_t equals = text.find('=');
  return equals != std::string_view::npos && IsModelName(text.substr(0, equals));
}

}  // namespace

absl::StatusOr<v1::ModelConfig> ParseModelFlag(std::string_view text) {
  absl::StatusOr<v1::ModelConfig> config = Parse(text);
  if (!config.ok()) return Annotate(config.status(), fmt::format("'{}'", text));
  return config;
}

std::vector<std::string> SplitModelList(std::string_view text) {
  std::vector<std::string> models;
  while (!text.empty()) {
    const size_t space = text.find_first_of(kSpace);
    std::string_view word = text.substr(0, space);
    text.remove_prefix(space == std::string_view::npos ? text.size() : space + 1);
    while (!word.empty()) {
      // The first ';' that separates, if any: not one amid the values of an option.
      size_t end = word.find(';');
      while (end != std::string_view::npos && end > 0 && end + 1 < word.size() &&
             word[end + 1] != ';' && !BeginsModel(word.substr(end + 1))) {
        end = word.find(';', end + 1);
      }
      if (end != 0) models.emplace_back(word.substr(0, end));
      word.remove_prefix(end == std::string_view::npos ? word.size() : end + 1);
    }
  }
  return models;
}

}  // namespace thresher
