#include "backend/evaluation/profile_watch.h"

#include <cmath>

namespace thresher {

ProfileWatch::ProfileWatch(const QualityProfile& profile) : windows_(profile.entries().size()) {
  for (const QualityProfile::Entry& entry : profile.entries()) bounds_.push_back(entry.drift_upper);
}

bool ProfileWatch::Add(size_t entry, double drift) {
  if (!bounds_[entry]) return false;
  MutexLock lock(&mutex_);
  Window& window = windows_[entry];
  if (window.n == kWindow) window = {};
  window.n += 1;
  const double before = drift - window.mean;
  window.mean += before / static_cast<double>(window.n);
  window.squares += before * (drift - window.mean);
  if (window.n < kFewest) return false;
  const auto n = static_cast<double>(window.n);
  const double standard_error = std::sqrt(window.squares / (n - 1) / n);
  // Written so that a drift that is no number fails it.
  if (window.mean - kStandardErrors * standard_error <= *bounds_[entry]) return false;
  return !failed_.exchange(true);
}

}  // namespace thresher
