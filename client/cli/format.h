// How answers look: for people and as JSON.
#ifndef THRESHER_CLIENT_CLI_FORMAT_H_
#define THRESHER_CLIENT_CLI_FORMAT_H_

#include <google/protobuf/message.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "thresher/v1/sparsity.pb.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher::cli {

/// Keys stay in the order in which they were set.
using Json = nlohmann::ordered_json;

/// The shortest decimal that reads back as the same float (as a JSON number, which is a double).
Json JsonFloat(float value);
Json JsonFloats(const google::protobuf::RepeatedField<float>& values);
/// Every field under its own name, numbers as numbers, whatever the schema grows to hold; messages
/// and optional fields only where they are set.
Json ToJson(const google::protobuf::Message& message);
/// The account of what ran: the message, and before its parts `keep` (done over dense by kind) and
/// `bytes`.
Json ReportJson(const v1::PruningReport& report);
/// {"code", "message"}: the code's canonical name.
Json ToJson(const absl::Status& status);
/// One line, without its end. Bytes that are not UTF-8 become U+FFFD.
std::string Dump(const Json& json);

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

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_FORMAT_H_
