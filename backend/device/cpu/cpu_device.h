// The fast device: oneDNN and our own kernels, on its own threads. See README.md in this directory.
#ifndef THRESHER_BACKEND_DEVICE_CPU_CPU_DEVICE_H_
#define THRESHER_BACKEND_DEVICE_CPU_CPU_DEVICE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/device/device.h"

namespace thresher {

absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(int threads);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_CPU_DEVICE_H_
