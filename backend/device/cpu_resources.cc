#include "backend/device/cpu_resources.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>

#include "backend/device/cgroup.h"

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

}  // namespace

int CpuResources::usable() const {
  if (!quota) return affinity;
  const double whole = std::ceil(*quota);
  return whole < affinity ? std::max(1, static_cast<int>(whole)) : affinity;
}

CpuResources DetectCpuResources(const fs::path& root) {
  CpuResources resources{.affinity = AffinityCpus()};
  VisitCgroups(root, "cpu", [&](CgroupVersion version, const fs::path& group) {
    const auto quota = version == CgroupVersion::kV2 ? ReadQuotaV2(group) : ReadQuotaV1(group);
    if (quota) resources.quota = std::min(*quota, resources.quota.value_or(*quota));
  });
  return resources;
}

}  // namespace thresher
