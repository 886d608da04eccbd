#include "backend/device/simulator/spatial/linear_layers.h"

#include <algorithm>
#include <cmath>

namespace thresher {

LinearWork RunLinear(const SpatialMachine& machine, const LinearLayer& layer) {
  const double rows = static_cast<double>(machine.rows);
  const double columns = static_cast<double>(machine.columns);
  const double weights = layer.inputs * layer.outputs;
  const double inputs = layer.inputs * layer.rows;
  const double tile = layer.inputs * rows;  // Of inputs, or of weights.
  const double room = machine.buffer_bytes / machine.word_bytes;
  double weight_reads = 1;
  double input_reads = 1;
  if (weights + tile > room) {
    if (2 * tile <= room) {
      double part = rows;
      while (layer.inputs * part * 2 + tile <= room) part *= 2;
      weight_reads = std::ceil(layer.rows / part);
    } else {
      weight_reads = std::ceil(layer.rows / rows);
      input_reads = std::ceil(layer.outputs / columns);
    }
  }
  LinearWork work;
  work.cycles = layer.inputs * std::ceil(layer.rows / rows) * std::ceil(layer.outputs / columns);
  work.busy_cycles = layer.rows * weights / (rows * columns);
  const double loaded = inputs * input_reads + weights * weight_reads;
  work.memory_bytes = (loaded + layer.rows * layer.outputs) * machine.word_bytes;
  // In each cycle a word for each row of the array, and one for each column.
  work.buffer_reads = work.cycles * (rows + columns) / machine.buffer_row_words;
  work.buffer_writes = loaded / machine.buffer_row_words;
  work.picojoules = layer.rows * weights * machine.mac_picojoules;
  work.seconds =
      std::max(work.cycles / machine.clock_hz, work.memory_bytes / machine.memory_bytes_per_second);
  return work;
}

LinearWork RunNorms(const SpatialMachine& machine, double rows, double width) {
  LinearWork work;
  if (machine.norm_cycles == 0) return work;
  constexpr double kNorms = 2;
  const double words = kNorms * rows * width;
  const double lanes = static_cast<double>(machine.lanes);
  work.cycles = kNorms * std::ceil(rows / lanes) * width * static_cast<double>(machine.norm_cycles);
  work.busy_cycles = words * static_cast<double>(machine.norm_cycles) / lanes;
  work.memory_bytes = 2 * words * machine.word_bytes;  // Read, and written.
  work.buffer_reads = work.buffer_writes = words / machine.buffer_row_words;
  work.picojoules = words * machine.norm_picojoules;
  work.seconds =
      std::max(work.cycles / machine.clock_hz, work.memory_bytes / machine.memory_bytes_per_second);
  return work;
}

}  // namespace thresher
