// Reads the small files of an operator: certificates, keys, tokens.
#ifndef THRESHER_SERVER_SMALL_FILE_H_
#define THRESHER_SERVER_SMALL_FILE_H_

#include <string>

#include "absl/status/statusor.h"

namespace thresher {

struct SmallFile {
  std::string content;
  bool others_read = false;  // The file's mode lets everybody on this machine read it.
};

/// FAILED_PRECONDITION "PATH: why" when it can't be read, is not a regular file or is larger than
/// 1 MiB.
absl::StatusOr<SmallFile> ReadSmallFile(const std::string& path);

}  // namespace thresher

#endif  // THRESHER_SERVER_SMALL_FILE_H_
