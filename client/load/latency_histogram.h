// Counts of times in bounded memory: buckets that grow with the time, as in HDR histograms.
//
// 128 buckets for each doubling, from a nanosecond to 19 hours, so that a percentile is at most
// 0.8 % more than the true one and never less. Count, sum, least and largest are exact. A histogram
// takes 40 kB whatever it holds.
#ifndef THRESHER_CLIENT_LOAD_LATENCY_HISTOGRAM_H_
#define THRESHER_CLIENT_LOAD_LATENCY_HISTOGRAM_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace thresher::load {

class LatencyHistogram {
 public:
  /// Negative times count as zero.
  void Add(absl::Duration time);
  void Add(const LatencyHistogram& other);
  void Clear() { *this = LatencyHistogram(); }

  int64_t count() const { return count_; }
  absl::Duration sum() const { return sum_; }
  /// All of these are zero of an empty histogram.
  absl::Duration mean() const { return count_ == 0 ? absl::ZeroDuration() : sum_ / count_; }
  absl::Duration max() const { return max_; }

  /// The time with this rank, 1 being the least of all; ranks outside are the nearest inside.
  absl::Duration AtRank(int64_t rank) const;
  /// The time that a share of `p` in [0, 1] of all is below: rank floor(p count) + 1, as in MLPerf
  /// LoadGen.
  absl::Duration Percentile(double p) const;
  /// Calls take(time, n): n of all are at most `time`, for each bucket that is not empty.
  template <typename Take>
  void ForEach(Take take) const {
    int64_t below = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      if (counts_[i] == 0) continue;
      below += counts_[i];
      take(Top(i), below);
    }
  }

 private:
  /// The largest time of the bucket, but not more than the largest of all.
  absl::Duration Top(size_t bucket) const;

  std::vector<int64_t> counts_;  // As many as were needed so far.
  int64_t count_ = 0;
  absl::Duration sum_;
  absl::Duration max_;
};

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_LATENCY_HISTOGRAM_H_
