#include "backend/sparsity/schedule.h"

#include <algorithm>
#include <cmath>

#include "backend/tensor/status.h"

namespace thresher {

Schedule ScheduleByFinal(int32_t layers, int32_t untouched, double final, ScheduleKind kind) {
  Schedule schedule(layers, 1.0);
  for (int32_t l = untouched; l < layers; ++l) {
    schedule[l] = kind == ScheduleKind::kFlat
                      ? final
                      : 1.0 - (1.0 - final) * (l - untouched + 1) / (layers - untouched);
  }
  return schedule;
}

absl::StatusOr<Schedule> ScheduleByMean(int32_t layers, double mean, ScheduleKind kind) {
  const int32_t untouched = UntouchedByTokens(layers);
  const int32_t pruned = layers - untouched;
  if (mean >= 1.0) return Schedule(layers, 1.0);
  if (mean * layers - untouched <= 1e-9) {
    return InvalidArgument(
        "spatten: keep={}: the first {} of {} layers keep every token, so the mean stays above "
        "{:.4f}; "
        "ask for more than that, or give every layer its share with keeps",
        mean, untouched, layers, static_cast<double>(untouched) / layers);
  }
  const double pruned_mean = (mean * layers - untouched) / pruned;
  if (kind == ScheduleKind::kFlat) return ScheduleByFinal(layers, untouched, pruned_mean, kind);

  // The line's shares sum to pruned - (1 - final) (pruned + 1) / 2 over its layers.
  const double final = 1.0 - 2.0 * layers * (1.0 - mean) / (pruned + 1);
  const double steepest = pruned_mean / 5.0;
  if (final >= steepest) return ScheduleByFinal(layers, untouched, final, kind);

  // first + last = 2 mean, as the paper says of its ramp. A final this low needs pruned > 1.
  const double first = 2.0 * pruned_mean - steepest;
  Schedule schedule(layers, 1.0);
  for (int32_t i = 0; i < pruned; ++i) {
    schedule[untouched + i] = first + (steepest - first) * i / (pruned - 1);
  }
  return schedule;
}

int32_t KeepFloor(int32_t n, double share) {
  return std::clamp(static_cast<int32_t>(std::floor(n * share + 1e-6)), 1, n);
}

}  // namespace thresher
