#include "backend/device/simulator/dram/dram.h"

#include "backend/device/simulator/dram/flat_memory.h"
#include "backend/device/simulator/dram/hbm2.h"
#include "backend/tensor/status.h"

namespace thresher {

absl::StatusOr<std::unique_ptr<Dram>> CreateDram(const v1::DramSpec& spec) {
  switch (spec.kind_case()) {
    case v1::DramSpec::kHbm2:
      return CreateHbm2(spec.hbm2());
    case v1::DramSpec::kFlat:
      return CreateFlatMemory(spec.flat());
    case v1::DramSpec::KIND_NOT_SET:
      break;
  }
  return InvalidArgument("dram: says neither hbm2 nor flat");
}

}  // namespace thresher
