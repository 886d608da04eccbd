// Which versions a model's directory holds, and which of them a policy serves.
#ifndef THRESHER_SERVER_MODEL_VERSIONS_H_
#define THRESHER_SERVER_MODEL_VERSIONS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "thresher/v1/config.pb.h"

namespace thresher {

/// "12" -> 12. A version is a whole number from 1, written without sign or leading zeros.
std::optional<int64_t> ParseVersion(std::string_view text);

/// The checkpoint directory of each version to serve. A directory with a config.json is version 1;
/// else its subdirectories named by whole numbers are its versions. A version that the policy names
/// but that does not exist is in the result too: its load will say so.
/// NOT_FOUND: no such directory, or nothing in it.
absl::StatusOr<std::map<int64_t, std::string>> ChooseVersions(const std::string& directory,
                                                              const v1::VersionPolicy& policy);

}  // namespace thresher

#endif  // THRESHER_SERVER_MODEL_VERSIONS_H_
