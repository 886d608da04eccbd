// Work that comes from memory in chunks, goes through a unit, and leaves for memory, while the next
// chunk comes: two fit on the chip. A matrix product whose weights stream is of this kind, and so
// is the normalization of rows.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_CHUNK_STREAM_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_CHUNK_STREAM_H_

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "backend/device/simulator/units/fetch_network.h"
#include "backend/device/simulator/units/unit_clock.h"

namespace thresher {

/// From where to where part i of `parts` equal ones of `total` goes, rounded down.
inline std::pair<int64_t, int64_t> PartOf(int64_t total, int64_t i, int64_t parts) {
  return {total / parts * i + total % parts * i / parts,
          total / parts * (i + 1) + total % parts * (i + 1) / parts};
}

struct ChunkStream {
  int64_t chunks = 0;
  /// What is read before the unit can begin with a chunk, and what is written when it has done.
  absl::FunctionRef<std::vector<FetchPart>(int64_t chunk)> reads, writes;
  /// How long the unit works on it; at least one cycle is taken.
  absl::FunctionRef<int64_t(int64_t chunk)> cycles;
  /// Why the unit stands still when a chunk has not come: text that stays.
  std::string_view waits = "waits for weights";
};

/// Runs it from cycle `begin`, and accounts for the time in `unit`. Returns when the last write has
/// ended. INTERNAL if nothing moves.
absl::StatusOr<int64_t> RunChunkStream(const ChunkStream& stream, int64_t begin,
                                       FetchNetwork* network, UnitClock* unit);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_CHUNK_STREAM_H_
