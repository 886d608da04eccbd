// AMX's tile products as units of dot_unit.h.
#ifndef THRESHER_BACKEND_DEVICE_CPU_AMX_UNIT_H_
#define THRESHER_BACKEND_DEVICE_CPU_AMX_UNIT_H_

#include "backend/device/cpu/dot_unit.h"
#include "backend/device/cpu/isa.h"

namespace thresher {

/// Null where `isa` has no AMX, the system does not permit it, or it fails the check that it is put
/// to once: a small product, compared with the same in integers.
const DotUnit* Int8AmxUnit(const Isa& isa);
const DotUnit* BFloat16AmxUnit(const Isa& isa);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_AMX_UNIT_H_
