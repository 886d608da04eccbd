#include "backend/model/rotary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>
#include <string_view>
#include <vector>

#include "backend/model/config_fields.h"
#include "backend/model/files.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

using Scaling = RotaryConfig::Scaling;

constexpr double kMaxTheta = 1e12;
constexpr double kMaxFactor = 65'536;

struct ScalingKind {
  std::string_view name;
  Scaling scaling;
};
constexpr std::array kScalingKinds = {
    ScalingKind{"default", Scaling::kNone},  ScalingKind{"dynamic", Scaling::kNone},
    ScalingKind{"linear", Scaling::kLinear}, ScalingKind{"llama3", Scaling::kLlama3},
    ScalingKind{"yarn", Scaling::kYarn},
};

/// How much longer YaRN makes vectors for a context `scale` times as long.
double YarnMagnitude(double scale, double weight) {
  return scale <= 1.0 ? 1.0 : 0.1 * weight * std::log(scale) + 1.0;
}

absl::Status ParseLlama3(const JsonFields& fields, RotaryConfig* config) {
  THRESHER_ASSIGN_OR_RETURN(config->low_freq_factor,
                            fields.Number("low_freq_factor", 1e-6, kMaxFactor));
  THRESHER_ASSIGN_OR_RETURN(config->high_freq_factor,
                            fields.Number("high_freq_factor", 1e-6, kMaxFactor));
  if (config->high_freq_factor <= config->low_freq_factor) {
    return InvalidArgument("{}: field 'high_freq_factor' is {}, not above 'low_freq_factor', {}",
                           fields.name(), config->high_freq_factor, config->low_freq_factor);
  }
  THRESHER_ASSIGN_OR_RETURN(config->original_positions,
                            fields.Integer("original_max_position_embeddings", 1, kMaxPositions));
  return absl::OkStatus();
}

absl::Status ParseYarn(const JsonFields& fields, int32_t positions, RotaryConfig* config) {
  THRESHER_ASSIGN_OR_RETURN(
      config->original_positions,
      fields.Integer("original_max_position_embeddings", 1, kMaxPositions, positions));
  THRESHER_ASSIGN_OR_RETURN(config->beta_fast, fields.Number("beta_fast", 1e-6, kMaxFactor, 32.0));
  THRESHER_ASSIGN_OR_RETURN(config->beta_slow, fields.Number("beta_slow", 1e-6, kMaxFactor, 1.0));
  if (config->beta_fast < config->beta_slow) {
    return InvalidArgument("{}: field 'beta_fast' is {}, below 'beta_slow', {}", fields.name(),
                           config->beta_fast, config->beta_slow);
  }
  THRESHER_ASSIGN_OR_RETURN(config->truncate, fields.Boolean("truncate", true));
  THRESHER_ASSIGN_OR_RETURN(const double attention,
                            fields.Number("attention_factor", 0.0, kMaxFactor, 0.0));
  THRESHER_ASSIGN_OR_RETURN(const double mscale, fields.Number("mscale", 0.0, kMaxFactor, 0.0));
  THRESHER_ASSIGN_OR_RETURN(const double mscale_all_dim,
                            fields.Number("mscale_all_dim", 0.0, kMaxFactor, 0.0));
  config->attention_factor = static_cast<float>(attention);
  if (attention == 0.0 && mscale > 0.0 && mscale_all_dim > 0.0) {
    config->attention_factor = static_cast<float>(YarnMagnitude(config->factor, mscale) /
                                                  YarnMagnitude(config->factor, mscale_all_dim));
  }
  return absl::OkStatus();
}

absl::Status ParseScaling(const JsonFields& fields, int32_t* positions, RotaryConfig* config) {
  // Older files say "type"; where both stand, "rope_type" counts.
  const std::string_view field = fields.Find("rope_type") != nullptr ? "rope_type" : "type";
  THRESHER_ASSIGN_OR_RETURN(const std::string name, fields.String(field, "default"));
  const ScalingKind* kind = Lookup(kScalingKinds, name);
  if (kind == nullptr) {
    return Unimplemented("{}: field '{}' is '{}', not one of {}", fields.name(), field,
                         Shorten(name), Known(kScalingKinds));
  }
  config->scaling = kind->scaling;
  if (name == "dynamic") {
    THRESHER_ASSIGN_OR_RETURN(
        const int32_t original,
        fields.Integer("original_max_position_embeddings", 1, kMaxPositions, *positions));
    *positions = std::min(*positions, original);
  }
  if (kind->scaling == Scaling::kNone) return absl::OkStatus();
  THRESHER_ASSIGN_OR_RETURN(config->factor, fields.Number("factor", 1.0, kMaxFactor));
  switch (kind->scaling) {
    case Scaling::kLlama3:
      return ParseLlama3(fields, config);
    case Scaling::kYarn:
      return ParseYarn(fields, *positions, config);
    case Scaling::kNone:
    case Scaling::kLinear:
      break;
  }
  return absl::OkStatus();
}

/// Llama 3.1's: by how often a pair turns within the original context.
void StretchLlama3(const RotaryConfig& config, std::vector<double>& frequencies) {
  for (double& frequency : frequencies) {
    const double turns = config.original_positions * frequency / (2.0 * std::numbers::pi);
    const double fast =
        std::clamp((turns - config.low_freq_factor) /
                       (double{config.high_freq_factor} - double{config.low_freq_factor}),
                   0.0, 1.0);
    frequency *= fast + (1.0 - fast) / config.factor;
  }
}

/// YaRN's: a ramp over the pairs, between those that turn beta_fast and beta_slow times within the
/// original context.
void StretchYarn(const RotaryConfig& config, std::vector<double>& frequencies) {
  const auto pair_that_turns = [&](double times) {
    return config.dims * std::log(config.original_positions / (times * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(double{config.theta}));
  };
  double first = pair_that_turns(config.beta_fast);
  double last = pair_that_turns(config.beta_slow);
  if (config.truncate) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, config.dims - 1.0);
  if (first == last) last += 0.001;  // As published: a ramp has a width.
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double slow = std::clamp((static_cast<double>(i) - first) / (last - first), 0.0, 1.0);
    frequencies[i] *= (1.0 - slow) + slow / config.factor;
  }
}

}  // namespace

absl::StatusOr<RotaryConfig> ParseRotary(const JsonFields& fields, int32_t head_dim,
                                         int32_t* positions) {
  RotaryConfig config;
  double theta = 10000.0;
  double share = 1.0;
  const auto read = [&](const JsonFields& from) -> absl::Status {
    // Above 1, where the formulas divide by its logarithm.
    THRESHER_ASSIGN_OR_RETURN(theta, from.Number("rope_theta", 1.0 + 1e-6, kMaxTheta, theta));
    THRESHER_ASSIGN_OR_RETURN(share, from.Number("partial_rotary_factor", 0.0, 1.0, share));
    return absl::OkStatus();
  };
  THRESHER_RETURN_IF_ERROR(read(fields));
  for (const std::string_view field : {"rope_scaling", "rope_parameters"}) {
    const nlohmann::json* object = fields.Find(field);
    if (object == nullptr) continue;
    THRESHER_ASSIGN_OR_RETURN(
        const JsonFields scaling,
        JsonFields::Of(*object, fmt::format("{}: field '{}'", fields.name(), field)));
    THRESHER_RETURN_IF_ERROR(read(scaling));
    THRESHER_RETURN_IF_ERROR(ParseScaling(scaling, positions, &config));
    break;  // Files that hold both say the same in both.
  }
  config.theta = static_cast<float>(theta);
  config.dims = static_cast<int32_t>(head_dim * share);
  if (config.dims < 2 || config.dims % 2 != 0) {
    return InvalidArgument("{}: {} dimensions of a head's {} would turn; the number must be even",
                           fields.name(), config.dims, head_dim);
  }
  return config;
}

RotaryTable MakeRotaryTable(const RotaryConfig& config, int32_t positions) {
  const auto half = static_cast<size_t>(config.dims / 2);
  std::vector<double> frequencies(half);
  for (size_t i = 0; i < half; ++i) {
    frequencies[i] = std::pow(double{config.theta}, -2.0 * static_cast<double>(i) / config.dims);
  }
  double magnitude = 1.0;
  switch (config.scaling) {
    case Scaling::kNone:
      break;
    case Scaling::kLinear:
      for (double& frequency : frequencies) frequency /= config.factor;
      break;
    case Scaling::kLlama3:
      StretchLlama3(config, frequencies);
      break;
    case Scaling::kYarn:
      StretchYarn(config, frequencies);
      magnitude = config.attention_factor > 0.0f ? double{config.attention_factor}
                                                 : YarnMagnitude(config.factor, 1.0);
      break;
  }
  RotaryTable table;
  table.half = config.dims / 2;
  table.cos.resize(static_cast<size_t>(positions) * half);
  table.sin.resize(table.cos.size());
  for (size_t p = 0; p < static_cast<size_t>(positions); ++p) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequencies[i];
      table.cos[p * half + i] = static_cast<float>(magnitude * std::cos(angle));
      table.sin[p * half + i] = static_cast<float>(magnitude * std::sin(angle));
    }
  }
  return table;
}

}  // namespace thresher
