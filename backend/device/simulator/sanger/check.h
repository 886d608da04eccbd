// What Sanger can't be, and what it can't run.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_CHECK_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_CHECK_H_

#include "absl/status/status.h"
#include "backend/device/layer_record.h"
#include "thresher/v1/simulator.pb.h"

namespace thresher {

/// INVALID_ARGUMENT naming the field and what it may be.
absl::Status CheckSangerPreset(const v1::Preset& preset);

/// INVALID_ARGUMENT for counts that contradict each other, and for what there is no hardware for.
absl::Status CheckSangerRecord(const LayerRecord& record);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_CHECK_H_
