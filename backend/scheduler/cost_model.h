// How long work will take, learned from the batches that one engine has run. Two questions:
//
// At least? seconds = fixed + slope * cost, least squares over the last kWindow batches. What is
// asked of the fit is not its line but the lower bound of its prediction interval: a job of its own
// may be given up only when even a lucky batch would miss its deadline. Noise, an outlier or a cost
// far from those seen widen the interval and so lower the bound; they never raise it.
//
// Likely? That decides how long a queue may grow, where a lower bound would let it grow the longer
// the less is known. The line, if the batches show its slope for certain; else, and from the first
// batch on, the latest batches' rate: what they took over what they cost. Under load batches are
// large and alike, and the rate is right; small ones make it too slow, if anything.
#ifndef THRESHER_BACKEND_SCHEDULER_COST_MODEL_H_
#define THRESHER_BACKEND_SCHEDULER_COST_MODEL_H_

#include <cstdint>
#include <deque>

#include "absl/time/time.h"

namespace thresher {

class CostModel {
 public:
  static constexpr int kWindow = 64;
  static constexpr int kMinSamples = 8;
  /// With no batch for this long, what was learned is forgotten. Otherwise a spell of slowness
  /// could refuse every request, and with them the very batches that would show that it is over.
  static constexpr absl::Duration kMaxAge = absl::Seconds(10);

  /// A batch of `cost` (> 0) took `compute` and ended at `now`.
  void Add(int64_t cost, absl::Duration compute, absl::Time now);

  /// No batch of `cost` (>= 0) is expected to take less. Zero while too little is known.
  absl::Duration AtLeast(int64_t cost, absl::Time now) const;

  /// Work of `cost` (>= 0) probably takes so long. Zero before the first batch.
  absl::Duration Likely(int64_t cost) const;

 private:
  struct Sample {
    double cost = 0;
    double seconds = 0;
  };

  void Fit();
  /// Whether the fitted slope is no matter of noise.
  bool SlopeIsSure() const;
  /// The interval's lower bound by the fit alone; may be negative.
  double Bound(double cost) const;

  std::deque<Sample> samples_;
  absl::Time last_ = absl::InfinitePast();
  Sample recent_;  // Sums over all batches, of which each counts for less than the next.
  // The fitted line, through the means; of the costs their sum of squared deviations; the
  // residuals' standard deviation.
  double mean_cost_ = 0, mean_seconds_ = 0, slope_ = 0;
  double cost_deviation_ = 0, noise_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_SCHEDULER_COST_MODEL_H_
