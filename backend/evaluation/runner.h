// Answers the same examples under one policy after another: in this process (engine_runner.h), or
// by asking a server (client/cli).
#ifndef THRESHER_BACKEND_EVALUATION_RUNNER_H_
#define THRESHER_BACKEND_EVALUATION_RUNNER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/evaluation/quality.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

/// Every example answered once under one policy.
struct Pass {
  std::vector<Answer> answers;   // In the examples' order.
  std::string policy;            // As it ran, in full.
  v1::PruningReport::Work work;  // Of all examples.
  double seconds = 0;            // From the first example to the last answer, without tokenizing.
};

/// Called now and then with the examples answered so far; false ends the pass with CANCELLED.
using PassProgress = std::function<bool(int64_t answered)>;

class Runner {
 public:
  virtual ~Runner() = default;
  /// INVALID_ARGUMENT: a policy that the model can't have.
  virtual absl::StatusOr<Pass> Run(std::string_view policy, const PassProgress& progress) = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_RUNNER_H_
