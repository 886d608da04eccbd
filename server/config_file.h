// Reads a configuration file: Protobuf text format of thresher.v1.ServerConfig.
#ifndef THRESHER_SERVER_CONFIG_FILE_H_
#define THRESHER_SERVER_CONFIG_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "thresher/v1/config.pb.h"

namespace thresher {

/// INVALID_ARGUMENT "NAME:LINE:COLUMN: what" for the first thing that is wrong. Unknown fields are
/// errors. `name` is only for messages.
absl::StatusOr<v1::ServerConfig> ParseConfigText(const std::string& text, const std::string& name);

/// NOT_FOUND or FAILED_PRECONDITION when the file can't be read, else as ParseConfigText.
absl::StatusOr<v1::ServerConfig> ReadConfigFile(const std::string& path);

}  // namespace thresher

#endif  // THRESHER_SERVER_CONFIG_FILE_H_
