// The fast device: oneDNN and our own kernels, on its own threads. See README.md in this directory.
#ifndef THRESHER_BACKEND_DEVICE_CPU_CPU_DEVICE_H_
#define THRESHER_BACKEND_DEVICE_CPU_CPU_DEVICE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/device/device.h"

namespace thresher {

/// `onednn_first`: as "cpu:onednn", whose products are oneDNN's where it has any.
absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(int threads, bool onednn_first);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_CPU_DEVICE_H_
