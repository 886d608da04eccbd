#include "server/model_versions.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <iterator>
#include <system_error>

#include "backend/tensor/status.h"

namespace thresher {
namespace fs = std::filesystem;

std::optional<int64_t> ParseVersion(std::string_view text) {
  int64_t version = 0;
  const char* end = text.data() + text.size();
  const auto [parsed, error] = std::from_chars(text.data(), end, version);
  if (error != std::errc() || parsed != end || version < 1 || text[0] == '0') return std::nullopt;
  return version;
}

absl::StatusOr<std::map<int64_t, std::string>> ChooseVersions(const std::string& directory,
                                                              const v1::VersionPolicy& policy) {
  std::error_code code;
  if (!fs::is_directory(directory, code)) return NotFound("{}: no such directory", directory);

  std::map<int64_t, std::string> all;
  if (fs::exists(fs::path(directory) / "config.json", code)) {
    all[1] = directory;
  } else {
    for (auto it = fs::directory_iterator(directory, code); !code && it != fs::directory_iterator();
         it.increment(code)) {
      const auto version = ParseVersion(it->path().filename().string());
      std::error_code ignored;
      if (version.has_value() && it->is_directory(ignored)) all[*version] = it->path().string();
    }
    if (code) return NotFound("{}: can't list: {}", directory, code.message());
    if (all.empty()) {
      return NotFound(
          "{}: neither a config.json (one version) nor subdirectories named by whole numbers "
          "(versions)",
          directory);
    }
  }

  if (policy.has_all()) return all;
  std::map<int64_t, std::string> chosen;
  if (policy.has_named()) {
    for (const int64_t version : policy.named().versions()) {
      const auto found = all.find(version);
      chosen[version] = found != all.end()
                            ? found->second
                            : (fs::path(directory) / std::to_string(version)).string();
    }
    return chosen;
  }
  const size_t count = std::max(1, policy.latest().count());
  chosen.insert(
      all.size() > count ? std::prev(all.end(), static_cast<int64_t>(count)) : all.begin(),
      all.end());
  return chosen;
}

}  // namespace thresher
