// A spatial array as a preset describes it, checked and made ready for use: the arrays, the buffer,
// the memory, and a cascade of Einsums bound to them.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_MACHINE_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_MACHINE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/simulator/spatial/einsum_cascade.h"
#include "backend/device/simulator/spatial/tile_pipeline.h"
#include "thresher/v1/simulator.pb.h"

namespace thresher {

struct BoundEinsum {
  v1::SpatialArray array = v1::ARRAY_2D;
  int64_t cycles = 0;     // Of one element for a point of the iteration space.
  double picojoules = 0;  // For a point.
  std::vector<std::string> from_buffer;
  bool to_buffer = false;
};

struct SpatialMachine {
  /// Times are whole numbers of this part of a cycle.
  static constexpr int64_t kTicksPerCycle = 1024;
  // Units, and steps, of a pipeline over it.
  static constexpr int kMemory = 0;
  static constexpr int kArray2d = 1;
  static constexpr int kArray1d = 2;

  std::string name;
  double clock_hz = 0;
  double word_bytes = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t lanes = 0;  // Elements of the 1D array.
  double buffer_bytes = 0;
  double buffer_row_words = 0;
  double buffer_read_picojoules = 0;   // For a row.
  double buffer_write_picojoules = 0;  // For a row.
  double memory_bytes_per_second = 0;
  double memory_picojoules_per_byte = 0;
  double mac_picojoules = 0;
  int64_t norm_cycles = 0;     // For an element of a layer's input, on the 1D array.
  double norm_picojoules = 0;  // For such an element.
  EinsumCascade cascade;
  std::vector<BoundEinsum> einsums;  // As in the cascade.
  TilePipeline::Program program;     // Step 0 is the memory.
  std::vector<int> steps;            // Of each Einsum.
  v1::SpatialSpec spec;              // For `mapping`.

  /// Ticks that the memory needs, at least one unless there is nothing.
  int64_t MemoryTicks(double bytes) const;
  /// Whether the tensor is an input of the cascade.
  bool IsInput(std::string_view tensor) const { return cascade.MakerOf(tensor) < 0; }
  /// Whether some Einsum takes it from the buffer, or puts it there.
  bool InBuffer(std::string_view tensor) const;
  /// The program with the Einsums `first` to `last` (exclusive) alone, one after the other as far
  /// as they need each other: a phase of an unfused run.
  TilePipeline::Program Phase(size_t first, size_t last) const;
};

/// INVALID_ARGUMENT for what can't work, naming the field and the reason.
absl::StatusOr<SpatialMachine> CreateSpatialMachine(const v1::Preset& preset);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_MACHINE_H_
