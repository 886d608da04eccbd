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
#include "backend/evaluation/attention_means.h"
#include "backend/evaluation/quality.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

/// Every example answered once under one policy.
struct Pass {
  std::vector<Answer> answers;   // In the examples' order.
  std::string policy;            // As it ran, in full.
  v1::PruningReport::Work work;  // Of all examples.
  AttentionMeans attention;      // Of all examples, if the runner measures it.
  double seconds = 0;            // From the first example to the last answer, without tokenizing.
};

/// Called now and then with the examples answered so far; false ends the pass with CANCELLED.
using PassProgress = std::function<bool(int64_t answered)>;

class Runner {
 public:
  virtual ~Runner() = default;
  /// INVALID_ARGUMENT: a policy that the model can't have.
  virtual absl::StatusOr<Pass> Run(std::string_view policy, const PassProgress& progress) = 0;

  /// From now on passes measure the attention, which makes them slower.
  void MeasureAttention() { measures_attention_ = true; }
  bool measures_attention() const { return measures_attention_; }

 private:
  bool measures_attention_ = false;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_RUNNER_H_
