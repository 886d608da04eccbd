// Measures policies side by side: dense first, then each.
#ifndef THRESHER_BACKEND_EVALUATION_SWEEP_H_
#define THRESHER_BACKEND_EVALUATION_SWEEP_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/evaluation/labelled_data.h"
#include "backend/evaluation/quality.h"
#include "backend/evaluation/runner.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

/// A policy's text with `share` written for every '*' in it, and for every '~' the threshold
/// (1 - share)^2, which rises as the share falls, finely at first: what a sweep or a search goes
/// through.
std::string WithShare(std::string_view policy, double share);
inline bool HasShare(std::string_view policy) {
  return policy.find_first_of("*~") != std::string_view::npos;
}

/// How one policy did.
struct PolicyResult {
  std::string sparsity;  // As asked.
  std::string policy;    // As it ran, in full.
  Quality quality;
  v1::PruningReport::Work work;
  AttentionMeans attention;  // Empty unless the runner measures it.
  double requests_per_second = 0;
  double speedup = 1;  // Over dense, of the same sweep.
};

struct SweepOptions {
  /// Passes over the data. The rounds go over all policies in turn, and each policy's fastest pass
  /// is what counts: a disturbance of the machine has to meet all of them to show.
  int rounds = 1;
  double confidence = 0.95;
  /// Of all passes, how many are done and a part of the next; false stops with CANCELLED.
  std::function<bool(double passes, int64_t total)> progress;
};

/// The first result is dense; a "dense" among the policies is not measured again. An error names
/// the policy.
absl::StatusOr<std::vector<PolicyResult>> Sweep(Runner& runner, Measure measure,
                                                std::span<const LabelledExample> examples,
                                                std::span<const std::string> policies,
                                                const SweepOptions& options);

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_SWEEP_H_
