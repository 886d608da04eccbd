// Rotary positions (RoPE, arXiv 2104.09864) and the published ways to stretch them over a longer
// context than the model was trained with.
#ifndef THRESHER_BACKEND_MODEL_ROTARY_H_
#define THRESHER_BACKEND_MODEL_ROTARY_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "backend/device/kv_cache.h"
#include "backend/model/json_fields.h"

namespace thresher {

/// Pair i of a head's dims/2 pairs turns by position * f(i), where unscaled
/// f(i) = theta^(-2 i / dims).
struct RotaryConfig {
  enum class Scaling {
    kNone,
    kLinear,  // f / factor (arXiv 2306.15595).
    kLlama3,  // As kLinear for slow pairs, kNone for fast ones, a blend between (Llama 3.1).
    kYarn     // The same idea with another ramp, and longer vectors (arXiv 2309.00071).
  };
  float theta = 10000.0f;
  int32_t dims = 0;  // Of a head that turn: all, or partial_rotary_factor's share.
  Scaling scaling = Scaling::kNone;
  float factor = 1.0f;
  int32_t original_positions = 0;  // kLlama3, kYarn: the context that the model was trained with.
  float low_freq_factor = 1.0f, high_freq_factor = 4.0f;            // kLlama3
  float beta_fast = 32.0f, beta_slow = 1.0f, attention_factor = 0;  // kYarn; 0: by the formula.
  bool truncate = true;  // kYarn: the ramp's ends are whole pairs.
};

/// What config.json says: 'rope_theta' and 'rope_scaling', or 'rope_parameters', which holds both.
/// `positions` is the model's context; where the published scaling changes with the length of the
/// text ("dynamic"), `positions` is cut to the part in which it is the plain one. INVALID_ARGUMENT
/// names the field; UNIMPLEMENTED: another kind of scaling.
absl::StatusOr<RotaryConfig> ParseRotary(const JsonFields& fields, int32_t head_dim,
                                         int32_t* positions);

/// The rotations of positions [0, positions), computed in double.
RotaryTable MakeRotaryTable(const RotaryConfig& config, int32_t positions);

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_ROTARY_H_
