// What this program is made of: for --version, /, metrics and ServerMetadata.
#ifndef THRESHER_SERVER_BUILD_INFO_H_
#define THRESHER_SERVER_BUILD_INFO_H_

#include <string>
#include <utility>
#include <vector>

namespace thresher {

struct BuildInfo {
  std::string version;     // "0.1.0"
  std::string commit;      // Abbreviated, "-dirty" if the tree differed; "unknown" outside git.
  std::string build_type;  // "Release"
  std::string compiler;    // "GNU 12.2.0"
  std::vector<std::pair<std::string, std::string>> libraries;  // Name and version.
};

const BuildInfo& GetBuildInfo();

/// What --version prints; ends with a newline.
std::string VersionText();

}  // namespace thresher

#endif  // THRESHER_SERVER_BUILD_INFO_H_
