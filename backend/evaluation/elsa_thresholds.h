// Learns ELSA's thresholds (backend/sparsity/elsa.h) from data: layer by layer, for a degree p of
// approximation, the mean over queries and heads of the least similarity q.k / (|q| |K_max|) whose
// true probability is above p / keys, or that of the best key if none is; 0 where that mean is
// negative. The greater p, the higher the threshold and the fewer the candidates.
//
// Labels and answers have no part in it. Where the same texts serve to promise a bound afterwards
// (calibration.h), the promise is so of texts like these and thresholds that have seen them.
#ifndef THRESHER_BACKEND_EVALUATION_ELSA_THRESHOLDS_H_
#define THRESHER_BACKEND_EVALUATION_ELSA_THRESHOLDS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/sparsity/policy.h"
#include "backend/tensor/mutex.h"

namespace thresher {

/// The degree of a rung of `thresher calibrate`: (1 - share) / share, which is 1 at one half.
inline double ElsaDegree(double share) { return (1.0 - share) / share; }

/// A policy that leaves nothing out and learns from what it is shown: run it over data, then ask.
/// Thread-safe.
class ElsaThresholds final : public Policy {
 public:
  ElsaThresholds(int32_t layers, int32_t heads, std::vector<double> degrees);

  /// For degrees[d]: `elsa:thresholds=...`. Before anything was run: zeros.
  std::string PolicyOf(size_t d) const;
  /// By layer.
  std::vector<double> Of(size_t d) const;

  std::string text() const override { return "dense"; }
  std::string name() const override { return "dense"; }
  double CostShare(int32_t tokens) const override { return 1.0; }
  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override;

 private:
  class Run;

  const int32_t heads_;
  const std::vector<double> degrees_;
  mutable Mutex mutex_;
  mutable std::vector<std::vector<double>> sums_;  // [degrees][layers]
  mutable std::vector<int64_t> rows_;              // [layers]: of queries and heads.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_ELSA_THRESHOLDS_H_
