// Finds the heads that ACT calibrates (backend/sparsity/act.h), as its authors do: over labelled
// data each head is calibrated alone, and those that raise the metric are kept. Layers 0, 1 and the
// last are left alone (the authors try 2 to 30 of 32).
//
// What a head gains alone it need not gain beside others, and a gain of a few examples may be
// chance: `together` is what all of them gain on the same data, which have been looked at for it.
#ifndef THRESHER_BACKEND_EVALUATION_ACT_HEADS_H_
#define THRESHER_BACKEND_EVALUATION_ACT_HEADS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/evaluation/labelled_data.h"
#include "backend/evaluation/runner.h"
#include "backend/evaluation/sweep.h"

namespace thresher {

struct ActHeads {
  struct Head {
    int32_t layer = 0;
    int32_t head = 0;
    double gain = 0.0;  // Over dense, in points of the metric.
  };
  std::vector<Head> tried;  // In the model's order.
  std::string policy;       // "act:...,heads=..." of those that gained; empty: none did.
  double dense = 0.0;       // The metric: accuracy, or Spearman's correlation.
  double together = 0.0;    // Under `policy`.
};

/// `policy`: "act", or with keys: "act:alpha=3,beta=0.2". Takes a pass over the data for each head.
/// INVALID_ARGUMENT: keys that can't be, or that choose heads themselves; a model of fewer than
/// four layers.
absl::StatusOr<ActHeads> FindActHeads(Runner& runner, Measure measure,
                                      std::span<const LabelledExample> examples, int32_t layers,
                                      int32_t heads, std::string_view policy,
                                      const SweepOptions& options);

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_ACT_HEADS_H_
