// Accelerators by name. The presets that come with Thresher are the files in presets/, built into
// the library; a user's own is a copy of one, edited.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_PRESETS_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_PRESETS_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "thresher/v1/simulator.pb.h"

namespace thresher {

struct EmbeddedText {
  std::string_view name;
  std::string_view content;
};
/// The files, by name.
extern const std::span<const EmbeddedText> kPresetFiles;

std::vector<std::string> PresetNames();

/// By name, or from a file: whatever has a `/` in it or ends in `.textproto`. NOT_FOUND for an
/// unknown name (with those known) or a file that is not there, INVALID_ARGUMENT with line and
/// column for text that is no preset. What is in it is checked by CreateAccelerator.
absl::StatusOr<v1::Preset> FindPreset(std::string_view name_or_file);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_PRESETS_H_
