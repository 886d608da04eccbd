// Whether a quality profile still tells the truth about the texts that are served: the drift from
// dense of answers that were checked, held against the drift that calibration measured.
#ifndef THRESHER_BACKEND_EVALUATION_PROFILE_WATCH_H_
#define THRESHER_BACKEND_EVALUATION_PROFILE_WATCH_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "backend/evaluation/profile.h"
#include "backend/tensor/mutex.h"

namespace thresher {

/// Thread-safe.
class ProfileWatch {
 public:
  /// Of one entry, over at most kWindow checks; then it begins anew, so that a change shows however
  /// long all went well.
  static constexpr int64_t kWindow = 1000;
  static constexpr int64_t kFewest = 50;
  /// The mean is looked at after every check, so that it must be far outside to be no accident.
  static constexpr double kStandardErrors = 4;

  explicit ProfileWatch(const QualityProfile& profile);

  /// One answer by entry number `entry` (in QualityProfile::entries) drifted by so much: nats of
  /// KL divergence, or 1 - cosine, as the profile's measure has it. True when this check made the
  /// profile fail: the entry's mean drift is above the upper bound that calibration measured, by
  /// kStandardErrors standard errors and from kFewest checks. An entry without such a bound never
  /// fails.
  bool Add(size_t entry, double drift);

  /// It failed once.
  bool failed() const { return failed_.load(); }

 private:
  /// Welford's running mean and sum of squared deviations.
  struct Window {
    int64_t n = 0;
    double mean = 0;
    double squares = 0;
  };

  std::vector<std::optional<double>> bounds_;
  std::atomic<bool> failed_ = false;
  Mutex mutex_;  // Guards windows_.
  std::vector<Window> windows_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_PROFILE_WATCH_H_
