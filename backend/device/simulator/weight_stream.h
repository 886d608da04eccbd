// A matrix product whose weights come from memory in chunks while the chunk before is multiplied:
// two chunks fit on the chip. What accelerators have in common that run linear layers so.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_WEIGHT_STREAM_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_WEIGHT_STREAM_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "backend/device/simulator/fetch_network.h"
#include "backend/device/simulator/unit_clock.h"

namespace thresher {

/// From where to where part i of `parts` equal ones of `total` goes, rounded down.
inline std::pair<int64_t, int64_t> PartOf(int64_t total, int64_t i, int64_t parts) {
  return {total / parts * i + total % parts * i / parts,
          total / parts * (i + 1) + total % parts * (i + 1) / parts};
}

struct WeightStream {
  int64_t chunks = 0;
  /// What is read before a chunk can be multiplied, and what is written when it has been.
  absl::FunctionRef<std::vector<FetchPart>(int64_t chunk)> reads, writes;
  /// How long the unit multiplies it; at least one cycle is taken.
  absl::FunctionRef<int64_t(int64_t chunk)> cycles;
};

struct WeightStreamEnd {
  int64_t now = 0;           // When the last write was seen to be done,
  int64_t last_written = 0;  // and when it was.
};

/// Runs it from cycle `begin`; `unit` is started, and left to be stopped. INTERNAL if nothing
/// moves.
absl::StatusOr<WeightStreamEnd> RunWeightStream(const WeightStream& stream, int64_t begin,
                                                FetchNetwork* network, UnitClock* unit);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_WEIGHT_STREAM_H_
