// Where the texts come from: arguments, lines of a file or of standard input, columns of a TSV
// table.
#ifndef THRESHER_CLIENT_CLI_INPUTS_H_
#define THRESHER_CLIENT_CLI_INPUTS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace thresher::cli {

struct InputFlags {
  std::vector<std::string> texts;
  std::string file;                 // "-": standard input.
  std::string column;               // A number from 1, or a name in the header; empty: whole lines.
  std::string pair_column;          // The same, for the second text of a pair.
  std::optional<std::string> pair;  // The second text of every input.
  bool header = false;
};

/// `what` names the texts in the help: TEXT, CONTEXT.
void AddInputFlags(CLI::App& app, InputFlags& flags, const std::string& what);

/// One input. Where `status` is an error (not UTF-8, a column that is missing), the input can't be
/// sent and fails alone.
struct Record {
  int64_t index = 0;  // From 0, in input order.
  std::string text;
  std::optional<std::string> pair;
  absl::Status status;
  int64_t offset = 0;  // Where the next input begins in the file, in bytes.
};

class InputSource {
 public:
  enum class Result { kRecord, kWait, kEnd, kError };

  /// INVALID_ARGUMENT when the flags contradict each other, there is no text, or the file can't be
  /// opened. Nothing is read yet.
  static absl::StatusOr<std::unique_ptr<InputSource>> Open(const InputFlags& flags);

  virtual ~InputSource() = default;
  /// kWait: nothing more until `fd()` can be read. kError: see status().
  virtual Result Next(Record& record) = 0;
  virtual int fd() const { return -1; }
  /// Size of what there is to read, in bytes (of the file) or inputs (of the command line); 0 if
  /// unknown. Progress is `offset` / `size`.
  virtual int64_t size() const { return 0; }
  virtual absl::Status status() const { return absl::OkStatus(); }
};

/// INVALID_ARGUMENT with the place of the first byte that is not UTF-8.
absl::Status CheckUtf8(std::string_view text);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_INPUTS_H_
