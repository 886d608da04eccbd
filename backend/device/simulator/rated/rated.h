// Designs that are known by their published rates alone: so many operations of attention a second,
// at so many watts. A layer is charged the operations that its attention would have had unpruned,
// at that rate: the source counts as done what its own pruning saved, so what the record says was
// pruned is not counted once more.
//
// A rating holds for every length, layer and batch alike. It knows no memory, no units, no waiting,
// and nothing but attention; what it can't say it refuses or leaves out.
//
// Ratings of different sizes and technologies are compared on one basis, which is that of SOFA's
// paper (MICRO 2024, table II): 128 multipliers at 1 GHz for time, 28 nm and 1.0 V for power and
// area. With s = technology / 28 nm, power falls with s and with the square of the voltage, area
// with the square of s; power of input and output stays as it is, and throughput for efficiencies
// as well.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_RATED_RATED_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_RATED_RATED_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/device/simulator/accelerator.h"
#include "thresher/v1/simulator.pb.h"

namespace thresher {

/// INVALID_ARGUMENT for a preset that can't work, naming the field and the reason. It runs with
/// RunScope::attention_only, without a timeline and without an observer of the memory.
absl::StatusOr<std::unique_ptr<Accelerator>> CreateRated(const v1::Preset& preset);

/// 0: not known.
struct BasisRating {
  double operations_per_second = 0.0;  // With 128 multipliers at 1 GHz.
  // At 28 nm and 1.0 V, in 1e9 operations a second.
  double gops_per_core_watt = 0.0;
  double gops_per_device_watt = 0.0;  // With input and output.
  double gops_per_mm2 = 0.0;
};
/// Of a preset that CreateRated takes.
BasisRating RatingOnBasis(const v1::Preset& preset);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_RATED_RATED_H_
