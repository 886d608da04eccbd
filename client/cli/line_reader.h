// Lines of a file descriptor, one at a time and without ever waiting: the caller polls.
#ifndef THRESHER_CLIENT_CLI_LINE_READER_H_
#define THRESHER_CLIENT_CLI_LINE_READER_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace thresher::cli {

class LineReader {
 public:
  /// A longer line is reported as kTooLong and skipped, so that memory stays bounded.
  static constexpr size_t kMaxLine = size_t{16} << 20;

  enum class Result {
    kLine,
    kTooLong,  // One line, too long to be read; it counts as a line.
    kWait,     // Nothing more until the descriptor has something to read.
    kEnd,
    kError,  // See status(); nothing more will come.
  };

  /// Does not own the descriptor.
  explicit LineReader(int fd) : fd_(fd) {}

  /// `line` without its end ("\n" or "\r\n"). The last line needs no end.
  Result Next(std::string& line);

  /// Bytes up to and with the last line that was given out.
  int64_t consumed() const { return consumed_; }
  const absl::Status& status() const { return status_; }

 private:
  /// Reads once, if something is there.
  Result Fill();

  const int fd_;
  std::string buffer_;
  size_t begin_ = 0;    // Where the next line begins in the buffer.
  size_t scanned_ = 0;  // No line end before this.
  bool end_ = false;
  bool skipping_ = false;  // Inside a line that is too long.
  int64_t consumed_ = 0;
  absl::Status status_;
};

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_LINE_READER_H_
