#include "backend/device/simulator/accelerator.h"

#include "backend/device/simulator/fact/fact.h"
#include "backend/device/simulator/rated/rated.h"
#include "backend/device/simulator/sanger/sanger.h"
#include "backend/device/simulator/spatial/spatial.h"
#include "backend/device/simulator/spatten/spatten.h"
#include "backend/tensor/status.h"

namespace thresher {

absl::StatusOr<std::unique_ptr<Accelerator>> CreateAccelerator(const v1::Preset& preset) {
  switch (preset.accelerator_case()) {
    case v1::Preset::kSpatten:
      return CreateSpAtten(preset);
    case v1::Preset::kFact:
      return CreateFact(preset);
    case v1::Preset::kSpatial:
      return CreateSpatial(preset);
    case v1::Preset::kSanger:
      return CreateSanger(preset);
    case v1::Preset::kRated:
      return CreateRated(preset);
    case v1::Preset::ACCELERATOR_NOT_SET:
      break;
  }
  return InvalidArgument(
      "preset '{}': one of spatten, fact, sanger, spatial and rated says what it is",
      preset.name());
}

}  // namespace thresher
