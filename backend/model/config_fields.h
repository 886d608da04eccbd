// What the readers of config.json share: bounds of its numbers, and fields that mean the same in
// every architecture.
#ifndef THRESHER_BACKEND_MODEL_CONFIG_FIELDS_H_
#define THRESHER_BACKEND_MODEL_CONFIG_FIELDS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/model/json_fields.h"

namespace thresher {

// Far above any published model, and low enough that sizes made of them fit 64 bits.
inline constexpr int32_t kMaxVocabulary = 10'000'000;
inline constexpr int32_t kMaxWidth = 65'536;
inline constexpr int32_t kMaxLayers = 1'000;
inline constexpr int32_t kMaxHeads = 1'024;
inline constexpr int32_t kMaxPositions = 1'048'576;

/// The names of a table's entries, for an error message.
template <typename Table>
std::string Known(const Table& table) {
  std::string names;
  for (const auto& entry : table) {
    if (!names.empty()) names += ", ";
    names += entry.name;
  }
  return names;
}

/// The entry of that name; null if there is none.
template <typename Table>
const typename Table::value_type* Lookup(const Table& table, std::string_view name) {
  for (const auto& entry : table) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

/// The one name that 'architectures' holds.
absl::StatusOr<std::string> ArchitectureName(const JsonFields& fields);
/// The same, of `directory`/config.json.
absl::StatusOr<std::string> LoadArchitectureName(const std::string& directory);

absl::StatusOr<Activation> ParseActivation(const JsonFields& fields, std::string_view field,
                                           std::string_view fallback);

/// UNIMPLEMENTED if the checkpoint's weights are quantized.
absl::Status RefuseQuantized(const JsonFields& fields);

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_CONFIG_FIELDS_H_
