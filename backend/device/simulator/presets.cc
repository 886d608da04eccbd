#include "backend/device/simulator/presets.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "backend/tensor/status.h"
#include "proto/text_format.h"

namespace thresher {
namespace {

constexpr size_t kMostBytes = size_t{1} << 20;
constexpr std::string_view kExtension = ".textproto";

/// Short names of the usual variants.
constexpr std::pair<std::string_view, std::string_view> kAliases[] = {{"fusemax", "fusemax-cloud"},
                                                                      {"flat", "flat-cloud"}};

bool IsFile(std::string_view name) {
  return name.find('/') != std::string_view::npos || name.ends_with(kExtension);
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  std::array<char, 4096> block;
  while (file.read(block.data(), block.size()) || file.gcount() > 0) {
    text.append(block.data(), static_cast<size_t>(file.gcount()));
    if (text.size() > kMostBytes) {
      return InvalidArgument("{}: larger than a preset can be ({} bytes)", path, kMostBytes);
    }
  }
  if (!file.eof()) return NotFound("{}: {}", path, std::strerror(errno));
  return text;
}

}  // namespace

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const EmbeddedText& file : kPresetFiles) names.emplace_back(file.name);
  std::ranges::sort(names);
  return names;
}

absl::StatusOr<v1::Preset> FindPreset(std::string_view name_or_file) {
  for (const auto& [alias, full] : kAliases) {
    if (name_or_file == alias) name_or_file = full;
  }
  const std::string name(name_or_file);
  std::string text;
  if (IsFile(name_or_file)) {
    THRESHER_ASSIGN_OR_RETURN(text, ReadText(name));
  } else {
    const auto found = std::ranges::find(kPresetFiles, name_or_file, &EmbeddedText::name);
    if (found == kPresetFiles.end()) {
      return NotFound("unknown preset '{}': {}, or a file ending in {}", name,
                      fmt::join(PresetNames(), ", "), kExtension);
    }
    text = std::string(found->content);
  }
  v1::Preset preset;
  THRESHER_RETURN_IF_ERROR(ParseText(text, name, &preset));
  if (preset.name().empty()) preset.set_name(name);
  return preset;
}

}  // namespace thresher
