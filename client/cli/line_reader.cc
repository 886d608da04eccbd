#include "client/cli/line_reader.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "backend/tensor/status.h"

namespace thresher::cli {

LineReader::Result LineReader::Next(std::string& line) {
  for (;;) {
    const size_t newline = buffer_.find('\n', scanned_);
    if (newline != std::string::npos || (end_ && begin_ < buffer_.size())) {
      const bool ended = newline != std::string::npos;
      size_t stop = ended ? newline : buffer_.size();
      consumed_ += static_cast<int64_t>(stop - begin_) + (ended ? 1 : 0);
      const bool too_long = skipping_ || stop - begin_ > kMaxLine;
      if (stop > begin_ && buffer_[stop - 1] == '\r') --stop;
      line.assign(buffer_, begin_, too_long ? 0 : stop - begin_);
      begin_ = scanned_ = ended ? newline + 1 : buffer_.size();
      skipping_ = false;
      return too_long ? Result::kTooLong : Result::kLine;
    }
    if (end_) {
      // A file that ends within a line that is being skipped.
      if (skipping_) {
        skipping_ = false;
        line.clear();
        return Result::kTooLong;
      }
      return status_.ok() ? Result::kEnd : Result::kError;
    }
    scanned_ = buffer_.size();
    if (scanned_ - begin_ > kMaxLine) {
      skipping_ = true;
      consumed_ += static_cast<int64_t>(scanned_ - begin_);
      begin_ = scanned_;
    }
    if (Fill() == Result::kWait) return Result::kWait;
  }
}

LineReader::Result LineReader::Fill() {
  pollfd ready{fd_, POLLIN, 0};
  if (poll(&ready, 1, 0) == 0) return Result::kWait;
  buffer_.erase(0, begin_);
  scanned_ -= begin_;
  begin_ = 0;
  constexpr size_t kChunk = size_t{64} << 10;
  const size_t size = buffer_.size();
  buffer_.resize(size + kChunk);
  ssize_t bytes;
  do {
    bytes = read(fd_, buffer_.data() + size, kChunk);
  } while (bytes < 0 && errno == EINTR);
  buffer_.resize(size + static_cast<size_t>(bytes > 0 ? bytes : 0));
  if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Result::kWait;
  if (bytes < 0) status_ = Internal("can't read: {}", std::strerror(errno));
  if (bytes <= 0) end_ = true;
  return Result::kLine;
}

}  // namespace thresher::cli
