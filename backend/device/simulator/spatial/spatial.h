// FLAT, FuseMax, unfused attention and whatever else a preset describes as a cascade of Einsums on
// a 2D and a 1D array (SpatialSpec): time, traffic, energy, and what each array was busy with.
//
// It computes all keys that a head reads for all its queries: causal or single-pair sparsity saves
// nothing, pruned rows, keys and heads do. Each head reads its own K and V.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_SPATIAL_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_SPATIAL_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/device/simulator/accelerator.h"
#include "thresher/v1/simulator.pb.h"

namespace thresher {

/// INVALID_ARGUMENT for a preset that can't work, naming the field and the reason.
absl::StatusOr<std::unique_ptr<Accelerator>> CreateSpatial(const v1::Preset& preset);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_SPATIAL_H_
