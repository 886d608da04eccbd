// The control groups that this process is in, as its files tell.
#ifndef THRESHER_BACKEND_DEVICE_CGROUP_H_
#define THRESHER_BACKEND_DEVICE_CGROUP_H_

#include <filesystem>
#include <string_view>

#include "absl/functional/function_ref.h"

namespace thresher {

enum class CgroupVersion { kV1, kV2 };

/// Calls `visit` with the directory of every group above this process that rules `controller`
/// ("cpu", "memory"), from its own up to the mount itself. Directories may not exist. `root` stands
/// for "/".
void VisitCgroups(const std::filesystem::path& root, std::string_view controller,
                  absl::FunctionRef<void(CgroupVersion, const std::filesystem::path&)> visit);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CGROUP_H_
