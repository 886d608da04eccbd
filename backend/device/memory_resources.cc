#include "backend/device/memory_resources.h"

#include <algorithm>
#include <fstream>
#include <string>

#include "backend/device/cgroup.h"

namespace thresher {

namespace fs = std::filesystem;

int64_t MemoryResources::usable() const {
  if (!limit) return physical;
  return physical > 0 ? std::min(physical, *limit) : *limit;
}

MemoryResources DetectMemoryResources(const fs::path& root) {
  MemoryResources resources;
  std::ifstream info(root / "proc/meminfo");
  for (std::string name; info >> name;) {
    int64_t kibibytes = 0;
    if (name == "MemTotal:" && info >> kibibytes && kibibytes > 0) {
      resources.physical = kibibytes * 1024;
      break;
    }
  }
  VisitCgroups(root, "memory", [&](CgroupVersion version, const fs::path& group) {
    // A number, or a word for none; v1 writes a number near 2^63 for none.
    std::ifstream file(group /
                       (version == CgroupVersion::kV2 ? "memory.max" : "memory.limit_in_bytes"));
    int64_t bytes = 0;
    if (!(file >> bytes) || bytes <= 0 || bytes > (int64_t{1} << 60)) return;
    resources.limit = std::min(bytes, resources.limit.value_or(bytes));
  });
  return resources;
}

}  // namespace thresher
