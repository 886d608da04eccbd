// A memory that moves bytes at one rate, whatever the addresses: one channel, in order, no rows.
// What analytical models (FLAT, FuseMax) assume.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_FLAT_MEMORY_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_FLAT_MEMORY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/device/simulator/dram/dram.h"

namespace thresher {

/// INVALID_ARGUMENT for a specification that can't work, naming the field and the reason.
absl::StatusOr<std::unique_ptr<Dram>> CreateFlatMemory(const v1::FlatMemorySpec& spec);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_FLAT_MEMORY_H_
