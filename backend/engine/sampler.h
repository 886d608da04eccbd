// Chooses the next token from logits.
//
// In this order: repetition penalty (CTRL, arXiv 1909.05858), temperature, top-k, top-p (nucleus,
// arXiv 1904.09751), min-p (arXiv 2407.01082), then one draw. Temperature 0 is greedy: the largest
// logit, the lower id among equals. The draw depends on the seed and on how many were drawn before
// alone: std::mt19937_64, whose numbers the C++ standard fixes.
#ifndef THRESHER_BACKEND_ENGINE_SAMPLER_H_
#define THRESHER_BACKEND_ENGINE_SAMPLER_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace thresher {

struct SamplingOptions {
  double temperature = 0.0;
  int32_t top_k = 0;  // 0: all.
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  uint64_t seed = 0;
};

/// INVALID_ARGUMENT names the option: not finite, out of range.
absl::Status CheckSampling(const SamplingOptions& options);

class Sampler {
 public:
  /// `options` have passed CheckSampling. `prompt` counts as seen for the repetition penalty.
  Sampler(const SamplingOptions& options, std::span<const int32_t> prompt);

  /// The next token, which then counts as seen. INTERNAL if a logit is not finite.
  absl::StatusOr<int32_t> Next(std::span<const float> logits);

 private:
  int32_t Greedy() const;
  int32_t Draw();
  /// Puts the `count` largest candidates first, in order.
  void SortLargest(size_t count);

  const SamplingOptions options_;
  std::mt19937_64 random_;
  std::vector<int32_t> seen_;  // Ascending, each once; only kept where there is a penalty.
  // Of the token that is being chosen.
  std::vector<float> penalized_;
  std::vector<std::pair<float, int32_t>> candidates_;
};

/// log(sum of e^logit), in double: what a logit's log-probability is less than the logit.
double LogSum(std::span<const float> logits);
/// log softmax(logits)[id].
double LogProbability(std::span<const float> logits, int32_t id);
/// The k largest, largest first, the lower id first among equals: (log-probability, id).
std::vector<std::pair<double, int32_t>> TopLogProbabilities(std::span<const float> logits,
                                                            int32_t k, double log_sum);

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_SAMPLER_H_
