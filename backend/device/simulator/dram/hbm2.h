// HBM2 by the cycle: channels (hbm2_channel.h) behind an address map (hbm2_address.h).
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/device/simulator/dram/dram.h"

namespace thresher {

/// INVALID_ARGUMENT for a specification that can't work, naming the field and the reason.
absl::StatusOr<std::unique_ptr<Dram>> CreateHbm2(const v1::Hbm2Spec& spec);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_H_
