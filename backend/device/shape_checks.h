// The checks that every device makes before it computes: do the shapes of an operation fit each
// other? INVALID_ARGUMENT says which does not. Devices may rely on nothing else about their input.
#ifndef THRESHER_BACKEND_DEVICE_SHAPE_CHECKS_H_
#define THRESHER_BACKEND_DEVICE_SHAPE_CHECKS_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "backend/device/device.h"
#include "backend/tensor/matrix.h"

namespace thresher {

absl::Status CheckPack(const StoredMatrix& weight, const StoredMatrix& bias);
absl::Status CheckLinear(const PackedLinear& weights, ConstMatrix x, ConstMatrix y);
absl::Status CheckColumns(std::span<const ColumnRange> columns, int64_t cols);
/// Of LinearOfOutputs: a flag for each element of y.
absl::Status CheckOutputs(std::span<const uint8_t> wanted, ConstMatrix y);
absl::Status CheckAttention(const AttentionInput& input, ConstMatrix out);
/// Shapes and sizes; the plans themselves are checked by CheckPlan (plan_rows.h).
absl::Status CheckPlannedAttention(const AttentionInput& input,
                                   std::span<const SequencePlan* const> plans, ConstMatrix out,
                                   std::span<const AttentionRecord> records);
/// What the dense attention of `rows` tokens does, without statistics.
AttentionRecord DenseRecord(const AttentionShape& shape, int32_t rows, bool causal);
absl::Status CheckEncoding(const LeadingOneInput& input, int32_t bits, int64_t group,
                           ConstMatrix codes, ConstMatrix scales);
absl::Status CheckVectorCodes(const VectorCodes& encoder, ConstMatrix x,
                              std::span<const float> center, ConstMatrix codes, ConstMatrix scales);
/// Also finds heads out of range.
absl::Status CheckPrediction(const ScoreOperands& operands, std::span<const int32_t> heads);
absl::Status CheckLayerNorm(ConstMatrix x, ConstMatrix residual, std::span<const float> gamma,
                            std::span<const float> beta, ConstMatrix y);
/// Also finds ids outside their table.
absl::Status CheckEmbed(std::span<const Device::Lookup> lookups, ConstMatrix y);
absl::Status CheckRmsNorm(ConstMatrix x, std::span<const float> gamma, ConstMatrix y);
/// Of Add and Multiply.
absl::Status CheckElementwise(ConstMatrix x, ConstMatrix y);
/// Also finds positions outside the table.
absl::Status CheckRotate(const RotaryTable& table, std::span<const int32_t> positions,
                         int32_t heads, ConstMatrix x);
absl::Status CheckStoreKeysValues(const KvLayout& layout, int32_t layer, ConstMatrix key,
                                  ConstMatrix value, std::span<const CachedSequence> sequences);
/// Also finds slots and positions out of range.
absl::Status CheckCachedAttention(const CachedAttentionInput& input, ConstMatrix out,
                                  std::span<const CachedRecord> records);
absl::Status CheckMeanPool(ConstMatrix x, std::span<const int32_t> offsets, ConstMatrix y);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SHAPE_CHECKS_H_
