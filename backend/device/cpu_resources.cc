#include "backend/device/cpu_resources.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

namespace thresher {
namespace {

namespace fs = std::filesystem;

int AffinityCpus() {
  // The kernel refuses a mask smaller than its own; ask with larger ones until it fits.
  for (int cpus = 1024; cpus <= (1 << 20); cpus *= 2) {
    const auto deleter = [](cpu_set_t* set) { CPU_FREE(set); };
    const std::unique_ptr<cpu_set_t, decltype(deleter)> set(CPU_ALLOC(cpus), deleter);
    const size_t bytes = CPU_ALLOC_SIZE(cpus);
    if (sched_getaffinity(0, bytes, set.get()) == 0) {
      return std::max(1, CPU_COUNT_S(bytes, set.get()));
    }
  }
  return 1;
}

/// "max 100000" or "150000 100000" in one file (v2).
std::optional<double> ReadQuotaV2(const fs::path& group) {
  std::ifstream file(group / "cpu.max");
  double quota = 0, period = 0;
  if (!(file >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

/// One number in each of two files, -1 for no limit (v1).
std::optional<double> ReadQuotaV1(const fs::path& group) {
  std::ifstream quota_file(group / "cpu.cfs_quota_us"), period_file(group / "cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(quota_file >> quota) || !(period_file >> period) || quota <= 0 || period <= 0) {
    return std::nullopt;
  }
  return quota / period;
}

/// The least of the quotas from `group` (as /proc/self/cgroup names it) up to the mount itself.
template <typename Read>
void Limit(std::optional<double>& least, const fs::path& mount, const fs::path& group, Read read) {
  // Lexically, so that a name like /../.. (a group outside this namespace) can't leave the mount.
  fs::path relative = (fs::path("/") / group).lexically_normal().relative_path();
  while (true) {
    const std::optional<double> quota = read(mount / relative);
    if (quota && (!least || *quota < *least)) least = quota;
    if (relative.empty()) return;
    relative = relative.parent_path();
  }
}

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

int CpuResources::usable() const {
  if (!quota) return affinity;
  const double whole = std::ceil(*quota);
  return whole < affinity ? std::max(1, static_cast<int>(whole)) : affinity;
}

CpuResources DetectCpuResources(const fs::path& root) {
  CpuResources resources{.affinity = AffinityCpus()};
  const fs::path cgroups = root / "sys/fs/cgroup";
  // Lines "hierarchy:controllers:path"; v2 is hierarchy 0 without controllers.
  std::ifstream membership(root / "proc/self/cgroup");
  for (std::string line; std::getline(membership, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path group = line.substr(second + 1);
    if (controllers.empty()) {
      Limit(resources.quota, cgroups, group, ReadQuotaV2);
      Limit(resources.quota, cgroups / "unified", group, ReadQuotaV2);
    } else if (HasController(controllers, "cpu")) {
      Limit(resources.quota, cgroups / "cpu", group, ReadQuotaV1);
      Limit(resources.quota, cgroups / controllers, group, ReadQuotaV1);
    }
  }
  return resources;
}

}  // namespace thresher
