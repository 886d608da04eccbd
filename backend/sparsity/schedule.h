// How much each layer keeps: the schedules of cascade token and head pruning (SpAtten, HPCA 2021,
// sections III-A and III-B).
#ifndef THRESHER_BACKEND_SPARSITY_SCHEDULE_H_
#define THRESHER_BACKEND_SPARSITY_SCHEDULE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace thresher {

/// One share a layer, none above the one before, all in (0, 1]; an encoder's first is 1.
using Schedule = std::vector<double>;

enum class ScheduleKind {
  kRamp,  // After the untouched layers the share falls in a straight line.
  kFlat,  // After the untouched layers it is the same everywhere.
};

/// Layers that no token (15 %) or head (30 %) leaves, rounded up.
inline int32_t UntouchedByTokens(int32_t layers) { return (15 * layers + 99) / 100; }
inline int32_t UntouchedByHeads(int32_t layers) { return (30 * layers + 99) / 100; }

/// The line from 1 in the last untouched layer to `final` in the last layer: with u untouched
/// layers, layer l >= u keeps 1 - (1 - final) (l - u + 1) / (layers - u). kFlat: `final` from layer
/// u on.
Schedule ScheduleByFinal(int32_t layers, int32_t untouched, double final, ScheduleKind kind);

/// The schedule whose mean over all layers is `mean`, by tokens. kRamp: ScheduleByFinal where a
/// `final` exists that is at least a fifth of the mean over the layers after the untouched ones;
/// below that, a line between a first and a last share with the same mean, the first 9 times the
/// last (as in the paper's released traces, 0.9 to 0.1). INVALID_ARGUMENT, naming the smallest
/// reachable mean, when the untouched layers alone make up as much.
absl::StatusOr<Schedule> ScheduleByMean(int32_t layers, double mean, ScheduleKind kind);

/// floor(n * share), at least 1. A product below a whole number by less than one millionth
/// counts as that number.
int32_t KeepFloor(int32_t n, double share);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_SCHEDULE_H_
