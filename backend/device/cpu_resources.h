// How many CPUs this process may really use: the scheduler affinity and the cgroup quota, never the
// machine's core count.
#ifndef THRESHER_BACKEND_DEVICE_CPU_RESOURCES_H_
#define THRESHER_BACKEND_DEVICE_CPU_RESOURCES_H_

#include <filesystem>
#include <optional>

namespace thresher {

struct CpuResources {
  /// CPUs the scheduler may put this process on; at least 1.
  int affinity = 1;
  /// CPU seconds per second that the cgroup and those above it allow; none when unlimited.
  std::optional<double> quota;

  /// Threads worth having: the affinity, or the quota rounded up where that is less.
  int usable() const;
};

/// Reads cgroup v2 (cpu.max) and v1 (cpu.cfs_quota_us) of this process and of every group above it;
/// what can't be read does not limit. `root` stands for "/" and is there for tests.
CpuResources DetectCpuResources(const std::filesystem::path& root = "/");

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_RESOURCES_H_
