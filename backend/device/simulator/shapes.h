// Shapes of networks by name or by number, and the record of one of their layers run dense: what an
// accelerator is asked to price when there is no live traffic and no trace.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SHAPES_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SHAPES_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "backend/device/layer_record.h"

namespace thresher {

/// The most that DenseRecordOf takes. A record of that many is some 100 MB.
inline constexpr int64_t kMaxShapeTokens = int64_t{1} << 24;
inline constexpr int32_t kMaxShapeBatch = 4096;

/// A known name ("bert-base"; NamesOfShapes), or numbers:
///
///   heads=12,head_dim=64,layers=12,ffn=3072[,hidden=768][,kv_heads=12][,ffn_matrices=2][,causal=0]
///
/// hidden is heads x head_dim unless given, kv_heads is heads, causal is 0 or 1. INVALID_ARGUMENT
/// for anything else, naming the key and its range.
absl::StatusOr<LayerShape> ParseShape(std::string_view text);

/// Separated by ", ".
std::string NamesOfShapes();

/// Layer 0 of `batch` equal sequences of `tokens` tokens with nothing pruned, as a prompt or an
/// encoder runs them. 1 <= tokens <= kMaxShapeTokens, 1 <= batch <= kMaxShapeBatch.
LayerRecord DenseRecordOf(const LayerShape& shape, int64_t tokens, int32_t batch);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SHAPES_H_
