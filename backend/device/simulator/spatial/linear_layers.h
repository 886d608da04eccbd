// The products of a transformer layer beside attention, and its normalizations, on a spatial
// machine: each by itself, its memory traffic behind its computation.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_LINEAR_LAYERS_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_LINEAR_LAYERS_H_

#include "backend/device/simulator/spatial/machine.h"

namespace thresher {

/// [rows, inputs] x [inputs, outputs]. Fractions are means over sequences.
struct LinearLayer {
  double rows = 0;
  double inputs = 0;
  double outputs = 0;
};

struct LinearWork {
  double seconds = 0;      // The longer of both.
  double cycles = 0;       // Of the 2D array, or of the 1D array (normalizations).
  double busy_cycles = 0;  // Of them, had all elements been at work.
  double memory_bytes = 0;
  double buffer_reads = 0;   // Rows.
  double buffer_writes = 0;  // Rows.
  double picojoules = 0;     // Of the operations.
};

/// The weights stay in the buffer if they fit beside a tile of inputs, and are read once; otherwise
/// they are read again for each part of the rows, as large as fits beside a tile of weights; where
/// not even that fits, one tile of outputs is made at a time.
LinearWork RunLinear(const SpatialMachine& machine, const LinearLayer& layer);

/// Both normalizations of a layer over [rows, width].
LinearWork RunNorms(const SpatialMachine& machine, double rows, double width);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_LINEAR_LAYERS_H_
