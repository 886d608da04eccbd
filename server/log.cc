#include "server/log.h"

#include <fmt/format.h>
#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/time/time.h"

namespace thresher {
namespace {

thread_local const LogFields* innermost = nullptr;

void AppendEscaped(std::string_view text, bool quotes, std::string* line) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || (quotes && (byte == '"' || byte == '\\'))) {
      fmt::format_to(std::back_inserter(*line), "\\x{:02x}", byte);
    } else {
      line->push_back(c);
    }
  }
}

class LineFormatter final : public spdlog::formatter {
 public:
  explicit LineFormatter(LogFormat format) : format_(format) {}

  void format(const spdlog::details::log_msg& record, spdlog::memory_buf_t& out) override {
    const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::FromChrono(record.time),
                                              absl::UTCTimeZone());
    const auto level = spdlog::level::to_string_view(record.level);
    const std::string_view level_name(level.data(), level.size());
    const std::string_view message(record.payload.data(), record.payload.size());
    std::string line;
    if (format_ == LogFormat::kJson) {
      nlohmann::ordered_json json;
      json["time"] = time;
      json["level"] = level_name;
      json["message"] = message;
      for (const auto& [name, value] : LogFields::Current()) json[std::string(name)] = value;
      // Bytes that are not UTF-8 become U+FFFD.
      line = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    } else {
      line = fmt::format("{} {} ", time, level_name);
      AppendEscaped(message, /*quotes=*/false, &line);
      for (const auto& [name, value] : LogFields::Current()) {
        line += fmt::format(" {}=\"", name);
        AppendEscaped(value, /*quotes=*/true, &line);
        line.push_back('"');
      }
    }
    line.push_back('\n');
    out.append(line.data(), line.data() + line.size());
  }

  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<LineFormatter>(format_);
  }

 private:
  LogFormat format_;
};

/// Protobuf's and gRPC's own records, so that a log that is to be JSON is JSON throughout.
void LogFromGrpc(gpr_log_func_args* record) {
  const auto level = record->severity == GPR_LOG_SEVERITY_ERROR  ? spdlog::level::err
                     : record->severity == GPR_LOG_SEVERITY_INFO ? spdlog::level::info
                                                                 : spdlog::level::debug;
  spdlog::log(level, "grpc: {}", record->message);
}

void LogFromProtobuf(google::protobuf::LogLevel level, const char*, int,
                     const std::string& message) {
  spdlog::log(level >= google::protobuf::LOGLEVEL_ERROR     ? spdlog::level::err
              : level == google::protobuf::LOGLEVEL_WARNING ? spdlog::level::warn
                                                            : spdlog::level::info,
              "protobuf: {}", message);
}

}  // namespace

LogFields::LogFields(std::initializer_list<std::pair<std::string_view, std::string_view>> fields)
    : outer_(innermost) {
  for (const auto& [name, value] : fields) {
    if (!value.empty()) fields_.emplace_back(name, value);
  }
  innermost = this;
}

LogFields::~LogFields() { innermost = outer_; }

const std::vector<LogFields::Field>& LogFields::Current() {
  static const std::vector<Field> none;
  return innermost == nullptr ? none : innermost->fields_;
}

std::unique_ptr<spdlog::formatter> MakeLogFormatter(LogFormat format) {
  return std::make_unique<LineFormatter>(format);
}

void InitLog(std::string_view level, std::string_view format) {
  auto logger = std::make_shared<spdlog::logger>("thresherd",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_formatter(MakeLogFormatter(format == "json" ? LogFormat::kJson : LogFormat::kText));
  logger->set_level(spdlog::level::from_str(std::string(level)));
  spdlog::set_default_logger(std::move(logger));
  gpr_set_log_function(LogFromGrpc);
  google::protobuf::SetLogHandler(LogFromProtobuf);
}

}  // namespace thresher
