// The iteration space of an Einsum on a spatial array: its points, the cycles that it takes, and
// the words that it moves to and from the buffer.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_EXTENTS_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_EXTENTS_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "backend/device/simulator/spatial/machine.h"

namespace thresher {

/// How far each rank goes, in a tile or in a whole head.
struct Extents {
  int64_t p = 1;
  int64_t m = 1;
  int64_t m1 = 1;
  int64_t m0 = 1;
  int64_t e = 1;
  int64_t f = 1;

  int64_t Of(std::string_view rank) const;
  double Points(const std::vector<std::string>& ranks) const;
};

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Over the 2D array lie p and the keys (OUTPUT), or e or f and the keys (WEIGHT); over the 1D
/// array p. The other ranks are walked in time.
enum class Stationary { kOutput, kWeight };

/// What is longer is said to be this long, and refused by whoever adds up (2^50: 13 days at 1 GHz).
inline constexpr double kMostCycles = 1125899906842624.0;

int64_t CyclesOf(const SpatialMachine& machine, size_t einsum, const Extents& extents,
                 Stationary stationary);

/// Words of `use`, an input or the output, that the Einsum moves: each once for every round of the
/// loops outside the innermost one that the tensor has; words that elements share count once.
double MovedWords(const SpatialMachine& machine, size_t einsum, const TensorUse& use,
                  const Extents& extents, Stationary stationary);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_EXTENTS_H_
