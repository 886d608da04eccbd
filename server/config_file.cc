#include "server/config_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "backend/tensor/status.h"
#include "proto/text_format.h"

namespace thresher {
namespace {

constexpr uintmax_t kLargestFile = 1 << 20;

}  // namespace

absl::StatusOr<v1::ServerConfig> ParseConfigText(const std::string& text, const std::string& name) {
  v1::ServerConfig config;
  THRESHER_RETURN_IF_ERROR(ParseText(text, name, &config));
  return config;
}

absl::StatusOr<v1::ServerConfig> ReadConfigFile(const std::string& path) {
  std::error_code code;
  const auto kind = std::filesystem::status(path, code);
  if (!std::filesystem::exists(kind)) return NotFound("{}: no such file", path);
  if (!std::filesystem::is_regular_file(kind)) {
    return FailedPrecondition("{}: not a regular file", path);
  }
  const uintmax_t size = std::filesystem::file_size(path, code);
  if (!code && size > kLargestFile) {
    return FailedPrecondition("{}: {} bytes, more than a configuration file may have ({})", path,
                              size, kLargestFile);
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (size > 0) text << file.rdbuf();
  if (!file || !text) return FailedPrecondition("{}: can't read: {}", path, std::strerror(errno));
  return ParseConfigText(text.str(), path);
}

}  // namespace thresher
