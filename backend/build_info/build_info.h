// What this program is made of: for --version, the server's own metadata and metrics.
#ifndef THRESHER_BACKEND_BUILD_INFO_BUILD_INFO_H_
#define THRESHER_BACKEND_BUILD_INFO_BUILD_INFO_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace thresher {

struct BuildInfo {
  std::string version;     // "0.1.0"
  std::string commit;      // Abbreviated, "-dirty" if the tree differed; "unknown" outside git.
  std::string build_type;  // "Release"
  std::string compiler;    // "GNU 12.2.0"
};

const BuildInfo& GetBuildInfo();

/// Libraries that a program is linked with: name and version.
using LibraryVersions = std::vector<std::pair<std::string, std::string>>;

/// The version of a library that writes 1002003 for 1.2.3.
std::string VersionOfMillions(int version);

/// What --version prints; ends with a newline.
std::string VersionText(std::string_view program, const LibraryVersions& libraries);

}  // namespace thresher

#endif  // THRESHER_BACKEND_BUILD_INFO_BUILD_INFO_H_
