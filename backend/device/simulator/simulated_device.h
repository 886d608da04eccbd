// A device that computes its numbers through another one and has an accelerator modelled beside it:
// answers are the inner device's, bit for bit; what they would have cost on the accelerator is
// priced by whoever runs the layers (backend/engine/layer_pricing.h).
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SIMULATED_DEVICE_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SIMULATED_DEVICE_H_

#include <memory>
#include <string>

#include "backend/device/device.h"
#include "backend/device/simulator/accelerator.h"

namespace thresher {

/// What stands beside the device that computes.
struct SimulatedHardware {
  std::unique_ptr<Accelerator> accelerator;
  /// A batch ends no sooner than this times its simulated time after it began; 0: when it is done.
  double pace = 0.0;
};

/// `name` as --device gave it.
std::unique_ptr<Device> CreateSimulatedDevice(std::string name, std::unique_ptr<Device> inner,
                                              SimulatedHardware hardware);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SIMULATED_DEVICE_H_
