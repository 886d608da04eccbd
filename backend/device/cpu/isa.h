// Which instructions the device uses on this processor.
#ifndef THRESHER_BACKEND_DEVICE_CPU_ISA_H_
#define THRESHER_BACKEND_DEVICE_CPU_ISA_H_

#include <string>

#include "absl/status/statusor.h"

namespace thresher {

struct Isa {
  std::string name;   // "avx2", "avx512", "avx512+vnni", "avx512+bf16", "avx512+amx", "sse4".
  bool vnni = false;  // AVX-512's dot products of int8,
  bool bf16 = false;  // and of bfloat16.
  bool amx = false;   // Tile products of bfloat16 and int8, permitted by the system.
};

/// Detected once: the least of what the processor has, what oneDNN would use (so that
/// ONEDNN_MAX_CPU_ISA holds for the whole device) and THRESHER_MAX_ISA, which is one of the names
/// above. That environment variable caps oneDNN's kernels and our own alike; it is for tests, and
/// for machines whose wide instructions cost more than they give. INVALID_ARGUMENT if it is
/// something else.
const absl::StatusOr<Isa>& DetectedIsa();

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_ISA_H_
