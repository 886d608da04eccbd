#include "server/config_file.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr uintmax_t kLargestFile = 1 << 20;

/// Keeps the first error, as "line:column: what", counted from 1 as editors do.
class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (!text_.empty()) return;
    // Line -1: the error is the message's as a whole.
    text_ = line < 0 ? message : fmt::format("{}:{}: {}", line + 1, column + 1, message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace

absl::StatusOr<v1::ServerConfig> ParseConfigText(const std::string& text, const std::string& name) {
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  v1::ServerConfig config;
  if (!parser.ParseFromString(text, &config)) return InvalidArgument("{}:{}", name, error.text());
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
