// The first runs of a model that has just been loaded, before anybody waits for them: they touch
// the weights, let the device build what it builds lazily, and prove that the checkpoint computes.
#ifndef THRESHER_SERVER_WARM_UP_H_
#define THRESHER_SERVER_WARM_UP_H_

#include "absl/status/status.h"
#include "backend/engine/loaded_model.h"

namespace thresher {

/// Runs sequences of a few lengths, each alone and then all in one batch; of a decoder prompts,
/// with a token after each. An error means that the model can't serve. May run while other models
/// of the same device serve.
absl::Status WarmUp(LoadedModel& model);

}  // namespace thresher

#endif  // THRESHER_SERVER_WARM_UP_H_
