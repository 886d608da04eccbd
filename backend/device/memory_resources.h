// How much memory this process may really use: the machine's, and the cgroup's limit.
#ifndef THRESHER_BACKEND_DEVICE_MEMORY_RESOURCES_H_
#define THRESHER_BACKEND_DEVICE_MEMORY_RESOURCES_H_

#include <cstdint>
#include <filesystem>
#include <optional>

namespace thresher {

struct MemoryResources {
  int64_t physical = 0;  // Bytes; 0 if unknown.
  /// The least that the cgroup and those above it allow; none when unlimited.
  std::optional<int64_t> limit;

  /// The less of both; 0 if neither is known.
  int64_t usable() const;
};

/// Reads /proc/meminfo and cgroup v2 (memory.max) and v1 (memory.limit_in_bytes) of this process
/// and of every group above it; what can't be read does not limit. `root` stands for "/" and is
/// there for tests.
MemoryResources DetectMemoryResources(const std::filesystem::path& root = "/");

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_MEMORY_RESOURCES_H_
