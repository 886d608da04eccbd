// The oracle: plain loops, sums in double in the order of the index, one thread, no cleverness.
// Weights are float; int8 and int4 are emulated, by rounding weights and activations to what those
// many bits can say. bf16 is only recorded.
#ifndef THRESHER_BACKEND_DEVICE_REFERENCE_REFERENCE_DEVICE_H_
#define THRESHER_BACKEND_DEVICE_REFERENCE_REFERENCE_DEVICE_H_

#include <memory>

#include "backend/device/device.h"

namespace thresher {

std::unique_ptr<Device> CreateReferenceDevice();

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_REFERENCE_REFERENCE_DEVICE_H_
