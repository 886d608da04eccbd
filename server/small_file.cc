#include "server/small_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr size_t kLargest = 1 << 20;

absl::StatusOr<SmallFile> ReadAll(int file, const std::string& path) {
  struct stat info = {};
  if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
    return FailedPrecondition("{}: not a regular file", path);
  }
  SmallFile result;
  result.others_read = (info.st_mode & S_IROTH) != 0;
  char block[4096];
  for (;;) {
    const ssize_t bytes = read(file, block, sizeof(block));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) return FailedPrecondition("{}: can't read: {}", path, std::strerror(errno));
    if (bytes == 0) return result;
    result.content.append(block, static_cast<size_t>(bytes));
    if (result.content.size() > kLargest) {
      return FailedPrecondition("{}: larger than {} bytes", path, kLargest);
    }
  }
}

}  // namespace

absl::StatusOr<SmallFile> ReadSmallFile(const std::string& path) {
  // Opening a pipe must not wait for its writer.
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return FailedPrecondition("{}: can't read: {}", path, std::strerror(errno));
  auto result = ReadAll(file, path);
  close(file);
  return result;
}

}  // namespace thresher
