#include "backend/build_info/build_info.h"

#include <fmt/format.h>

#include "backend/build_info/build_commit.h"  // Generated: kBuildCommit.

namespace thresher {

const BuildInfo& GetBuildInfo() {
  static const BuildInfo info = {.version = THRESHER_VERSION,
                                 .commit = kBuildCommit,
                                 .build_type = THRESHER_BUILD_TYPE,
                                 .compiler = THRESHER_COMPILER};
  return info;
}

std::string VersionOfMillions(int version) {
  return fmt::format("{}.{}.{}", version / 1000000, version / 1000 % 1000, version % 1000);
}

std::string VersionText(std::string_view program, const LibraryVersions& libraries) {
  const BuildInfo& info = GetBuildInfo();
  std::string text = fmt::format("{} {}\n  commit    {}\n  build     {}, {}\n  libraries", program,
                                 info.version, info.commit, info.build_type, info.compiler);
  for (size_t i = 0; i < libraries.size(); ++i) {
    const auto& [name, version] = libraries[i];
    text += fmt::format("{} {} {}", i == 0 ? "" : ",", name, version);
  }
  return text + "\n";
}

}  // namespace thresher
