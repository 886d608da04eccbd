// How one head's attention is laid over a spatial machine: tiles for its pipeline, and what they
// move and compute. Ranks that lie over an array round up to its whole width or height (idle
// elements still take the cycle); those that are walked in time, traffic and operations do not.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_MAPPING_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_MAPPING_H_

#include <array>
#include <compare>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/simulator/spatial/machine.h"

namespace thresher {

/// One head: all at least 1.
struct AttentionSize {
  int64_t queries = 0;
  int64_t keys = 0;
  int64_t head_dim = 0;

  friend auto operator<=>(const AttentionSize&, const AttentionSize&) = default;
};

struct HeadWork {
  /// Through the machine's program; or, unfused, of each phase.
  std::vector<TilePipeline::Loop> tiles;
  /// That the memory and the arrays are held, by unit: no run is longer than their sum, or shorter
  /// than the longest.
  std::array<double, 3> cycles = {};
  int window = 1;  // Tiles that the memory can run ahead.
  double memory_bytes = 0;
  double kv_bytes = 0;         // Of them, K and V.
  double buffer_reads = 0;     // Rows.
  double buffer_writes = 0;    // Rows.
  std::vector<double> points;  // Of the iteration space of each Einsum.
};

/// Runs of Einsums [first, last) on one array: what an unfused machine does at a time.
std::vector<std::pair<size_t, size_t>> PhasesOf(const SpatialMachine& machine);

/// INVALID_ARGUMENT for a head whose tiles the buffer does not hold.
absl::StatusOr<HeadWork> MapHead(const SpatialMachine& machine, const AttentionSize& size);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_MAPPING_H_
