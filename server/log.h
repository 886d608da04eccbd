// Logs go through spdlog's default logger to stderr, one record a line: readable text or JSON.
#ifndef THRESHER_SERVER_LOG_H_
#define THRESHER_SERVER_LOG_H_

#include <spdlog/formatter.h>

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace thresher {

enum class LogFormat { kText, kJson };

/// Times are UTC with microseconds. Control characters in a message are escaped, so that what a
/// client sends can't forge a record or move a terminal's cursor.
///   text: 2026-01-31T12:00:00.123456Z warning message
///   json: {"time":"2026-01-31T12:00:00.123456Z","level":"warning","message":"..."}
/// Fields (below) come behind: as name="value", or as members of the object.
std::unique_ptr<spdlog::formatter> MakeLogFormatter(LogFormat format);

/// While it lives, what this thread logs says this besides. Empty values are left out. Of several,
/// the innermost counts.
class LogFields {
 public:
  using Field = std::pair<std::string_view, std::string>;

  explicit LogFields(std::initializer_list<std::pair<std::string_view, std::string_view>> fields);
  ~LogFields();
  LogFields(const LogFields&) = delete;
  LogFields& operator=(const LogFields&) = delete;

  /// Those of the calling thread.
  static const std::vector<Field>& Current();

 private:
  std::vector<Field> fields_;
  const LogFields* const outer_;
};

/// Makes spdlog's default logger write to stderr, and gRPC log through it. `level` and `format` as
/// the configuration names them; call before other threads log.
void InitLog(std::string_view level, std::string_view format);

}  // namespace thresher

#endif  // THRESHER_SERVER_LOG_H_
