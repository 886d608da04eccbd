// What FACT can't be, and what it can't run.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_CHECK_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_CHECK_H_

#include "absl/status/status.h"
#include "backend/device/layer_record.h"
#include "thresher/v1/simulator_fact.pb.h"

namespace thresher {

/// INVALID_ARGUMENT naming the field and what it may be.
absl::Status CheckFactSpec(const v1::FactSpec& spec);

/// INVALID_ARGUMENT for counts that contradict each other, and for heads whose weights, or whose K
/// and V, do not fit on the chip.
absl::Status CheckFactRecord(const LayerRecord& record, const v1::FactSpec& spec);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_CHECK_H_
