#include "backend/sparsity/spatten_settings.h"

#include <span>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

using Importance = SpattenSettings::Importance;

/// Bits of the planes that a KV cache has (kv_cache.h).
constexpr int32_t kWidestPlane = 8;

absl::StatusOr<Schedule> TokenSchedule(const PolicyValues& values, const PolicyShape& shape) {
  const ScheduleKind kind =
      values.text("schedule") == "flat" ? ScheduleKind::kFlat : ScheduleKind::kRamp;
  if (values.has("keep")) return ScheduleByMean(shape.layers, values.number("keep"), kind);
  if (!values.has("keeps")) {
    return ScheduleByFinal(shape.layers, UntouchedByTokens(shape.layers), values.number("final"),
                           kind);
  }
  const std::span<const double> keeps = values.numbers("keeps");
  if (keeps.size() != static_cast<size_t>(shape.layers)) {
    return InvalidArgument("spatten: keeps has {} shares; the model has {} layers", keeps.size(),
                           shape.layers);
  }
  // A decoder's first layer can choose: the prompt and the steps before have been measured.
  if (keeps[0] != 1.0 && !shape.causal) {
    return InvalidArgument(
        "spatten: keeps begins with {}; the first layer keeps every token (1), since nothing has "
        "been measured before it",
        keeps[0]);
  }
  for (size_t l = 1; l < keeps.size(); ++l) {
    if (keeps[l] > keeps[l - 1]) {
      return InvalidArgument(
          "spatten: keeps: layer {} has {} after {}; a dropped token never comes back, so no share "
          "may be above the one before",
          l, keeps[l], keeps[l - 1]);
    }
  }
  return Schedule(keeps.begin(), keeps.end());
}

absl::Status CheckDecoder(const SpattenSettings& settings, double heads) {
  if (heads < 1.0) {
    return InvalidArgument(
        "spatten: heads={}: head pruning is for encoders; every head of a decoder reads its cache, "
        "so leave heads at 1",
        heads);
  }
  const auto& planes = settings.quantization;
  if (planes && (planes->msb_bits > kWidestPlane || planes->lsb_bits > kWidestPlane)) {
    return InvalidArgument(
        "spatten: bits={}/{}: each plane of a decoder's cache has at most {} bits",
        planes->msb_bits, planes->lsb_bits, kWidestPlane);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SpattenSettings> ReadSpattenSettings(const PolicyValues& values,
                                                    const PolicyShape& shape) {
  SpattenSettings settings{.shape = shape, .text = values.Canonical()};
  THRESHER_ASSIGN_OR_RETURN(settings.tokens, TokenSchedule(values, shape));
  settings.heads = ScheduleByFinal(shape.layers, UntouchedByHeads(shape.layers),
                                   values.number("heads"), ScheduleKind::kRamp);
  settings.values = values.number("values");
  if (const std::span<const double> bits = values.numbers("bits"); !bits.empty()) {
    settings.quantization = ProgressiveQuantization{.msb_bits = static_cast<int32_t>(bits[0]),
                                                    .lsb_bits = static_cast<int32_t>(bits[1]),
                                                    .threshold = values.number("refetch")};
  }
  if (values.text("importance") == "random") settings.importance = Importance::kRandom;
  if (values.text("importance") == "inverse") settings.importance = Importance::kInverse;
  settings.seed = static_cast<uint64_t>(values.number("seed"));
  settings.protect_model = values.text("protect") == "model";
  settings.first = static_cast<int32_t>(values.number("first"));
  for (const std::string_view key : {"recent", "rescale"}) {
    if (!shape.causal && values.has(key)) {
      return InvalidArgument("spatten: {}={} is for decoders, and this model is an encoder", key,
                             values.text(key));
    }
  }
  if (!shape.causal) return settings;
  THRESHER_RETURN_IF_ERROR(CheckDecoder(settings, values.number("heads")));
  if (values.has("recent")) settings.recent = static_cast<int32_t>(values.number("recent"));
  if (values.has("rescale")) {
    settings.rescale = values.number("rescale");
  } else {
    settings.text += fmt::format(",rescale={}", settings.rescale);
  }
  return settings;
}

double RandomRank(uint64_t seed, uint64_t length, uint64_t index) {
  uint64_t z = seed;
  for (const uint64_t part : {length, index}) {
    z += 0x9e3779b97f4a7c15u + part;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
  }
  return static_cast<double>(z >> 11) * 0x1p-53;
}

}  // namespace thresher
