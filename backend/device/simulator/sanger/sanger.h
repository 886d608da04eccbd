// Sanger (Lu et al., MICRO 2021): attention on the scores that a narrow prediction leaves.
//
//   memory -> Q, K in 4 bits -> prediction array -> mask -> pack and split --+ sub-rows
//         -> Q, K, V ------------------------------------> score-stationary array -> memory
//
// One head after the other; while the array works on one, the next one is predicted and packed
// (pack.h), and the memory runs ahead for both. In each pass of the array every element keeps one
// score: K's columns go by, then the exponential is taken in place, then V's columns go by. K and V
// come from memory for every pass, as the authors' own latency model has it; Q stays.
//
// Without prediction (dense) every score in sight is kept. With linear layers their products run on
// the same array, a tile of outputs at a time; norms cost nothing, since nothing says what does
// them.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_SANGER_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_SANGER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/device/simulator/accelerator.h"

namespace thresher {

/// INVALID_ARGUMENT for a preset that can't work, naming the field and the reason. The memory is a
/// flat one.
///
/// `busy_cycles` has, besides units, parts of the array's: "array.attention", and of that the rows
/// ("array.rows") and the elements ("array.elements") that held a score, as cycles of the whole
/// array. elements / rows is the utilization that the paper calls load balance.
absl::StatusOr<std::unique_ptr<Accelerator>> CreateSanger(const v1::Preset& preset);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_SANGER_H_
