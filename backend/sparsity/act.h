// ACT, attention calibration (ICML 2024): less attention for sinks that help nobody.
//
// In chosen heads, keys that receive more than their due in the mean over all queries (sinks) keep
// only `beta` of their probability, and what they lose goes to the other keys of each row in
// proportion (AttentionCalibration in plan.h). The first sink is left: it is the one that the model
// needs. Nothing is skipped: ACT changes answers, not work.
//
// What is a sink, paper and released code say differently; both are here: above alpha / keys
// (`alpha`, 5 in the paper), or above a fixed share (`threshold`, 0.1 in the code).
//
// Which heads: the authors try each alone on a calibration set and keep those that raise the
// accuracy, layers 2 to 30 of 32 being tried. `thresher calibrate --policy act` does such a search.
// Without a list all heads of layers `first` and later, but for the last layer, are calibrated.
//
// A reading: published for decoders' prompts, here for encoders, whose whole map is at hand. A row
// all of whose probability is on sinks stays as it was (the code divides by zero there).
//
// Verified: by hand (rows still sum to one; beta = 1 changes nothing), and cpu against reference.
// Not: accuracy as published, which is of Llama-2 and its kin.
#ifndef THRESHER_BACKEND_SPARSITY_ACT_H_
#define THRESHER_BACKEND_SPARSITY_ACT_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// INVALID_ARGUMENT for a list of heads that the model does not have, or that does not ascend.
absl::StatusOr<std::shared_ptr<const Policy>> MakeAct(const PolicyValues& values,
                                                      const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_ACT_H_
