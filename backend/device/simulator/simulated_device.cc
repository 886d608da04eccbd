#include "backend/device/simulator/simulated_device.h"

#include <utility>

#include "backend/device/forwarding_device.h"

namespace thresher {
namespace {

class SimulatedDevice final : public ForwardingDevice {
 public:
  SimulatedDevice(std::string name, std::unique_ptr<Device> inner, SimulatedHardware hardware)
      : ForwardingDevice(std::move(inner)),
        hardware_(std::move(hardware)),
        description_(ForwardingDevice::description()) {
    description_.name = std::move(name);
  }

  const DeviceDescription& description() const override { return description_; }
  SimulatedHardware* simulated() override { return &hardware_; }

 private:
  SimulatedHardware hardware_;
  DeviceDescription description_;
};

}  // namespace

std::unique_ptr<Device> CreateSimulatedDevice(std::string name, std::unique_ptr<Device> inner,
                                              SimulatedHardware hardware) {
  return std::make_unique<SimulatedDevice>(std::move(name), std::move(inner), std::move(hardware));
}

}  // namespace thresher
