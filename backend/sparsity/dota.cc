#include "backend/sparsity/dota.h"

#include <algorithm>

#include "backend/sparsity/key_choice.h"
#include "backend/tensor/status.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeDota(const PolicyValues& values,
                                                       const PolicyShape& shape) {
  const auto rank = static_cast<int32_t>(values.number("rank"));
  if (rank > shape.hidden_size) {
    return InvalidArgument("dota: rank={} is more than the model's hidden size, {}", rank,
                           shape.hidden_size);
  }
  return MakePredictingPolicy({.shape = shape,
                               .name = "dota",
                               .text = values.Canonical(),
                               .prediction = {.kind = PredictionKind::kInputProjection,
                                              .bits = static_cast<int32_t>(values.number("bits")),
                                              .width = std::min(rank, shape.head_dim),
                                              .rank = rank},
                               .rule = {.topk = values.number("topk")}});
}

}  // namespace thresher
