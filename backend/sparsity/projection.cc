#include "backend/sparsity/projection.h"

#include "backend/sparsity/key_choice.h"
#include "backend/tensor/status.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeProjection(const PolicyValues& values,
                                                             const PolicyShape& shape) {
  PredictionRequest prediction = {.bits = static_cast<int32_t>(values.number("bits"))};
  if (values.text("from") == "input") {
    prediction.kind = PredictionKind::kInputProjection;
    prediction.rank = static_cast<int32_t>(values.number("rank"));
    if (prediction.rank > shape.hidden_size) {
      return InvalidArgument("projection: rank={} is more than the model's hidden size, {}",
                             prediction.rank, shape.hidden_size);
    }
  } else {
    prediction.kind = PredictionKind::kProjection;
    prediction.width = static_cast<int32_t>(values.number("width"));
    prediction.center = values.text("center") == "mean";
    if (prediction.width > shape.head_dim) {
      return InvalidArgument("projection: width={} is more than the {} dimensions of a head",
                             prediction.width, shape.head_dim);
    }
  }
  return MakePredictingPolicy({.shape = shape,
                               .name = "projection",
                               .text = values.Canonical(),
                               .prediction = prediction,
                               .rule = {.topk = values.number("topk")}});
}

}  // namespace thresher
