// What a `spatten` policy's text says, for encoders (spatten.h) and decoders (spatten_cache.h).
#ifndef THRESHER_BACKEND_SPARSITY_SPATTEN_SETTINGS_H_
#define THRESHER_BACKEND_SPARSITY_SPATTEN_SETTINGS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "backend/device/plan.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"
#include "backend/sparsity/schedule.h"

namespace thresher {

struct SpattenSettings {
  /// What ranks tokens and heads: their sums, chance, or the sums the wrong way round.
  enum class Importance { kAttention, kRandom, kInverse };

  PolicyShape shape;
  std::string text;
  Schedule tokens;
  Schedule heads;  // Of an encoder.
  double values = 1.0;
  std::optional<ProgressiveQuantization> quantization;
  Importance importance = Importance::kAttention;
  uint64_t seed = 0;
  bool protect_model = true;
  int32_t first = 0;
  // Of a decoder.
  int32_t recent = 0;
  double rescale = 0.5;
};

/// INVALID_ARGUMENT when the values do not fit the model: keeps of another length or order, an
/// unreachable mean; of a decoder heads below 1, planes wider than those of its cache.
absl::StatusOr<SpattenSettings> ReadSpattenSettings(const PolicyValues& values,
                                                    const PolicyShape& shape);

/// A random number in [0, 1) that depends on nothing but its arguments (SplitMix64), a multiple of
/// 2^-53.
double RandomRank(uint64_t seed, uint64_t length, uint64_t index);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_SPATTEN_SETTINGS_H_
