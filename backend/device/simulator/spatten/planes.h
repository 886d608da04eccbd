// How SpAtten's fetchers find rows of K and V in memory: by bit plane. An element of 12 bits is 8
// bits in one plane and 4 in another, so that the upper bits can be read alone; a plane whose rows
// don't fill transactions puts the rows of several heads into one word (6 bits: two heads, 96
// bytes).
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_PLANES_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_PLANES_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "thresher/v1/simulator_spatten.pb.h"

namespace thresher {

struct BitPlane {
  int32_t bits = 0;
  int32_t fused_heads = 1;
  int32_t row_bytes = 0;    // Of one head's row, within a word.
  int32_t word_bursts = 0;  // Of a whole word; words lie as many bursts apart.

  /// Transactions that fetch the rows of the word's heads [first, first + count).
  int32_t Bursts(int32_t first, int32_t count, int32_t burst_bytes) const {
    return (((first + count) * row_bytes - 1) / burst_bytes) - first * row_bytes / burst_bytes + 1;
  }
};

/// The planes that hold `bits` of an element of rows of `head_dim`: of those in the specification,
/// the ones that take the fewest transactions for each head, then those that come first there.
/// 1 <= bits <= 32. The planes may hold more bits than asked for, and do where no sum is exact.
std::vector<BitPlane> PlanesOf(int32_t bits, int32_t head_dim, int32_t burst_bytes,
                               const v1::SpAttenFetch& fetch);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_PLANES_H_
