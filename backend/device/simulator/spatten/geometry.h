// How much of a row SpAtten's arrays and memories take at once.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_GEOMETRY_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_GEOMETRY_H_

#include <algorithm>
#include <bit>
#include <cstdint>

#include "thresher/v1/simulator_spatten.pb.h"

namespace thresher {

inline int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Rows of K or V that fit into so much SRAM.
inline int64_t SramRows(int64_t bytes, int32_t head_dim, const v1::SpAttenSpec& spec) {
  return bytes * 8 / (static_cast<int64_t>(head_dim) * spec.element_bits());
}

/// Cycles in which one of the arrays multiplies so many rows with a vector: its adder tree sums
/// parts of the array that are a power of two wide.
inline int64_t ArrayCycles(int64_t rows, int32_t head_dim, const v1::SpAttenSpec& spec) {
  if (head_dim > spec.multipliers()) return rows * DivideUp(head_dim, spec.multipliers());
  const auto part = static_cast<int64_t>(std::bit_ceil(static_cast<uint32_t>(head_dim)));
  return DivideUp(rows, std::max<int64_t>(1, spec.multipliers() / part));
}

/// The most keys that a set can have: what the softmax holds of a row, and a part of each SRAM.
inline int32_t SegmentKeys(int32_t head_dim, const v1::SpAttenSpec& spec) {
  int64_t parts = 2;  // A load is in use while another comes; the fused heads of one come together.
  for (const auto& plane : spec.fetch().planes()) {
    parts = std::max<int64_t>(parts, plane.fused_heads());
  }
  const int64_t bytes = std::min(spec.key_sram_bytes(), spec.value_sram_bytes());
  return static_cast<int32_t>(
      std::min<int64_t>(spec.context(), SramRows(bytes, head_dim, spec) / parts));
}

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_GEOMETRY_H_
