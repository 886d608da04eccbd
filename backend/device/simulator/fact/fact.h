// FACT (Qin et al., ISCA 2023, doi 10.1145/3579371.3589057): the whole transformer layer with a
// predictor that runs ahead.
//
//   memory -> weights, inputs ----------> array (Q, K, V) -> K, V buffer -> array (scores) ->
//   softmax
//                 |                         ^                                                  |
//                 +-> prediction -> rows' --+             memory <- outputs <- array (P.V) <---+
//                                   keys
//
// The predictor adds in the logarithmic domain: it makes K of all tokens of a head, then for one
// query after the other Q, the scores and the best keys. Keys that no earlier query named are
// generated at once, while the next queries (and heads) are predicted; a query is attended to when
// all that it named is there. What the sources leave open is a parameter of the preset.
//
// After attention, the output projection and the feed-forward network run on the same array
// (fact_linear.h).
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_FACT_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_FACT_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/device/simulator/accelerator.h"

namespace thresher {

/// INVALID_ARGUMENT for a preset that can't work, naming the field and the reason.
absl::StatusOr<std::unique_ptr<Accelerator>> CreateFact(const v1::Preset& preset);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_FACT_H_
