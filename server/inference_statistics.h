// What each model version has done since the server started, as the Open Inference Protocol's
// ModelStatistics counts it: by call, not by input; a failed call adds only to `fail`.
#ifndef THRESHER_SERVER_INFERENCE_STATISTICS_H_
#define THRESHER_SERVER_INFERENCE_STATISTICS_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "backend/tensor/mutex.h"
#include "inference/open_inference_grpc.pb.h"
#include "server/metrics.h"

namespace thresher {

/// One input of a call, as far as the statistics of batches care.
struct BatchShare {
  int32_t batch_sequences = 0;  // Size of the batch in which the input ran; 0: it did not run.
  absl::Duration compute;       // The batch's.
};

/// Thread-safe.
class InferenceStatistics {
 public:
  /// A call that was answered: its times (those of its slowest input) and each input's batch.
  void OnSuccess(const std::string& model, const std::string& version, const RequestTimes& times,
                 std::span<const BatchShare> inputs);
  /// A call that failed as a whole after `total`.
  void OnFailure(const std::string& model, const std::string& version, absl::Duration total);

  /// All zero for a version that was never asked.
  inference::ModelStatistics Get(const std::string& model, const std::string& version) const;

 private:
  struct Sum {
    uint64_t count = 0;
    absl::Duration time;
    void Add(absl::Duration duration);
  };
  struct Version {
    Sum success, fail, queue, tokenize, compute;
    uint64_t inputs = 0;
    absl::Time last;
    // By batch size: the inputs that ran in such batches, and their batches' times. A batch of n is
    // seen by n inputs, so inputs / n batches ran.
    std::map<int32_t, Sum> batches;
  };

  mutable Mutex mutex_;
  std::map<std::pair<std::string, std::string>, Version> versions_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_INFERENCE_STATISTICS_H_
