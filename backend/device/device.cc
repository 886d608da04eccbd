#include "backend/device/device.h"

#include "backend/device/cpu/cpu_device.h"
#include "backend/device/reference/reference_device.h"
#include "backend/tensor/status.h"

namespace thresher {

std::string_view Name(Precision precision) {
  switch (precision) {
    case Precision::kF32:
      return "f32";
    case Precision::kBF16:
      return "bf16";
    case Precision::kInt8:
      return "int8";
  }
  return "unknown";
}

absl::StatusOr<Precision> ParsePrecision(std::string_view name) {
  for (const Precision precision : {Precision::kF32, Precision::kBF16, Precision::kInt8}) {
    if (name == Name(precision)) return precision;
  }
  return InvalidArgument("unknown precision '{}': f32, bf16 or int8", name);
}

absl::StatusOr<std::unique_ptr<Device>> CreateDevice(std::string_view name,
                                                     const DeviceOptions& options) {
  constexpr int kMostThreads = 4096;
  if (options.threads < 1 || options.threads > kMostThreads) {
    return InvalidArgument("device '{}': {} threads, expected 1 to {}", name, options.threads,
                           kMostThreads);
  }
  if (name == "cpu") return CreateCpuDevice(options.threads);
  if (name == "reference") return CreateReferenceDevice();
  return NotFound("unknown device '{}': cpu or reference", name);
}

}  // namespace thresher
