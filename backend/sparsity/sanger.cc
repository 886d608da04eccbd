#include "backend/sparsity/sanger.h"

#include "backend/sparsity/key_choice.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeSanger(const PolicyValues& values,
                                                         const PolicyShape& shape) {
  return MakePredictingPolicy({.shape = shape,
                               .name = "sanger",
                               .text = values.Canonical(),
                               .prediction = {.kind = PredictionKind::kInteger,
                                              .bits = static_cast<int32_t>(values.number("bits"))},
                               .rule = {.threshold = values.number("threshold"), .above = true}});
}

}  // namespace thresher
