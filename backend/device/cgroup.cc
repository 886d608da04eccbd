#include "backend/device/cgroup.h"

#include <fstream>
#include <string>

namespace thresher {
namespace {

namespace fs = std::filesystem;

bool HasController(std::string_view controllers, std::string_view name) {
  while (!controllers.empty()) {
    const size_t comma = controllers.find(',');
    if (controllers.substr(0, comma) == name) return true;
    if (comma == std::string_view::npos) return false;
    controllers.remove_prefix(comma + 1);
  }
  return false;
}

}  // namespace

void VisitCgroups(const fs::path& root, std::string_view controller,
                  absl::FunctionRef<void(CgroupVersion, const fs::path&)> visit) {
  // From `group` (as /proc/self/cgroup names it) up.
  const auto climb = [&](CgroupVersion version, const fs::path& mount, const fs::path& group) {
    // Lexically, so that a name like /../.. (a group outside this namespace) can't leave the mount.
    fs::path relative = (fs::path("/") / group).lexically_normal().relative_path();
    while (true) {
      visit(version, mount / relative);
      if (relative.empty()) return;
      relative = relative.parent_path();
    }
  };
  const fs::path mounts = root / "sys/fs/cgroup";
  // Lines "hierarchy:controllers:path"; v2 is hierarchy 0 without controllers.
  std::ifstream membership(root / "proc/self/cgroup");
  for (std::string line; std::getline(membership, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path group = line.substr(second + 1);
    if (controllers.empty()) {
      climb(CgroupVersion::kV2, mounts, group);
      climb(CgroupVersion::kV2, mounts / "unified", group);
    } else if (HasController(controllers, controller)) {
      climb(CgroupVersion::kV1, mounts / std::string(controller), group);
      climb(CgroupVersion::kV1, mounts / controllers, group);
    }
  }
}

}  // namespace thresher
