// What SpAtten can't be, and what it can't run.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_CHECK_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_CHECK_H_

#include "absl/status/status.h"
#include "backend/device/layer_record.h"
#include "thresher/v1/simulator_spatten.pb.h"

namespace thresher {

/// INVALID_ARGUMENT naming the field and what it may be.
absl::Status CheckSpAttenSpec(const v1::SpAttenSpec& spec);

/// INVALID_ARGUMENT for counts that contradict each other or that nobody has time to simulate, and
/// for heads so wide that not even one row fits.
absl::Status CheckSpAttenRecord(const LayerRecord& record, const v1::SpAttenSpec& spec);

/// INVALID_ARGUMENT for linear layers that nobody has time to simulate. The record must be valid.
absl::Status CheckSpAttenLinear(const LayerRecord& record, const v1::SpAttenSpec& spec);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_CHECK_H_
