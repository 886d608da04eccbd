// How answers look: for people and as JSON.
#ifndef THRESHER_CLIENT_CLI_FORMAT_H_
#define THRESHER_CLIENT_CLI_FORMAT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "backend/sparsity/report_json.h"
#include "proto/json.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher::cli {

using thresher::ToJson;
/// {"code", "message"}: the code's canonical name.
Json ToJson(const absl::Status& status);

/// The text with control characters (which could drive a terminal) and invalid UTF-8 replaced.
std::string Printable(std::string_view text);
/// Columns that a text takes on a terminal.
int Width(std::string_view text);
/// The text cut to `width` columns, the last of them an ellipsis if something was cut.
std::string Shorten(std::string_view text, int width);
/// The text filled with blanks on its right to `width` columns.
std::string Pad(std::string_view text, int width);
/// `share` (0..1) of `cells` columns, drawn with block characters where the locale has them.
std::string Bar(double share, int cells);
/// "queue 0.1 ms, tokenize 0.0 ms, compute 1.2 ms, total 1.4 ms".
std::string ToText(const v1::Timings& timings);

/// Rows as aligned columns, two blanks between them; the first row is the heading.
std::string Table(const std::vector<std::vector<std::string>>& rows);

/// Columns of the terminal that standard output is; 0 if it is none.
int TerminalWidth();
/// Whether the locale is UTF-8.
bool Unicode();

/// Writes to standard output. False once that is closed or broken; see OutputStatus.
bool Print(std::string_view text);
/// Flushes. OK also when the reader has gone (`| head`), which is nobody's error.
absl::Status OutputStatus();

/// Writes a whole file. FAILED_PRECONDITION names it.
absl::Status WriteFile(const std::string& path, std::string_view text);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_FORMAT_H_
