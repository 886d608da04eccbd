#include "backend/sparsity/sofa.h"

#include <limits>

#include "backend/sparsity/key_choice.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeSofa(const PolicyValues& values,
                                                       const PolicyShape& shape) {
  return MakePredictingPolicy(
      {.shape = shape,
       .name = "sofa",
       .text = values.Canonical(),
       .prediction = {.kind = PredictionKind::kOneOperandLog,
                      .bits = static_cast<int32_t>(values.number("bits"))},
       .rule = {.topk = values.number("topk"),
                .segments = static_cast<int32_t>(values.number("segments")),
                .radius = values.has("radius") ? values.number("radius")
                                               : std::numeric_limits<double>::infinity()}});
}

}  // namespace thresher
