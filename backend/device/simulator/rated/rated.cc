#include "backend/device/simulator/rated/rated.h"

#include <fmt/format.h>

#include <cmath>
#include <span>
#include <string_view>

#include "backend/device/simulator/simulation.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

// A design's own pruning is within its rating.
constexpr std::string_view kPolicies[] = {"dense"};

constexpr double kBasisMultiplierHertz = 128 * 1e9;
constexpr double kBasisNanometres = 28;
constexpr double kBasisVolts = 1.0;

constexpr int32_t kMostTokens = 1 << 24;
constexpr int32_t kMostWidth = 1 << 20;
constexpr double kMostCycles = 9e18;

class Rated final : public Accelerator {
 public:
  explicit Rated(const v1::Preset& preset) : preset_(preset), spec_(preset_.rated()) {}

  std::span<const std::string_view> policies() const override { return kPolicies; }
  void Reset() override {}

  absl::Status CheckScope(const RunScope& scope) const override {
    if (!scope.attention_only) {
      return Refused("rates of attention alone are published, none of whole layers");
    }
    if (scope.timeline != nullptr) return Refused("a rating has no units to draw a timeline of");
    if (scope.dram_observer != nullptr) return Refused("a rating has no memory to watch");
    return absl::OkStatus();
  }

  absl::StatusOr<LayerCharge> Run(const LayerRecord& record, const RunScope& scope) override {
    THRESHER_RETURN_IF_ERROR(CheckScope(scope));
    THRESHER_RETURN_IF_ERROR(Annotate(CheckRecord(record), preset_.name()));
    LayerCharge charge;
    v1::Simulation& total = charge.total;
    total.set_preset(preset_.name());
    double operations = 0;
    for (const SequenceRecord& sequence : record.sequences) {
      charge.shares.push_back(DenseAttentionOperations(record.shape, sequence));
      operations += charge.shares.back();
    }
    MakeShares(&charge.shares);
    const double seconds = operations / (spec_.giga_operations_per_second() * 1e9);
    const double cycles = seconds * spec_.clock_hz();
    if (!(cycles < kMostCycles)) {
      return InvalidArgument("{}: layer {}: {:.3g} cycles: at most {:.3g} are counted",
                             preset_.name(), record.layer, cycles, kMostCycles);
    }
    total.set_seconds(seconds);
    total.set_cycles(std::llround(cycles));
    total.set_operations_dense(operations);
    total.set_operations(operations * (1.0 - spec_.saved_share()));
    auto& parts = *total.mutable_energy_by_part();
    parts["core"] = seconds * spec_.core_watts();
    if (spec_.io_watts() > 0) parts["io"] = seconds * spec_.io_watts();
    total.set_energy_joules(seconds * (spec_.core_watts() + spec_.io_watts()));
    return charge;
  }

 private:
  absl::Status Refused(std::string_view why) const {
    return InvalidArgument("preset '{}': {} (docs/simulator.md)", preset_.name(), why);
  }

  static absl::Status CheckRecord(const LayerRecord& record) {
    const LayerShape& shape = record.shape;
    const auto within = [&](std::string_view field, int32_t value, int32_t least, int32_t most) {
      if (value >= least && value <= most) return absl::OkStatus();
      return InvalidArgument("layer {}: {}: {} must lie within {} and {}", record.layer, field,
                             value, least, most);
    };
    THRESHER_RETURN_IF_ERROR(within("heads", shape.heads, 1, kMostWidth));
    THRESHER_RETURN_IF_ERROR(within("head_dim", shape.head_dim, 1, kMostWidth));
    for (const SequenceRecord& sequence : record.sequences) {
      THRESHER_RETURN_IF_ERROR(within("dense_rows", sequence.dense_rows, 0, kMostTokens));
      THRESHER_RETURN_IF_ERROR(
          within("dense_keys", sequence.dense_keys, sequence.dense_rows, kMostTokens));
    }
    return absl::OkStatus();
  }

  const v1::Preset preset_;
  const v1::RatedSpec& spec_;
};

absl::Status CheckRatedSpec(const v1::Preset& preset) {
  const v1::RatedSpec& spec = preset.rated();
  const auto check = [](std::string_view field, double value, double least, double most) {
    if (value >= least && value <= most) return absl::OkStatus();
    return InvalidArgument("{}: {} must lie within {} and {}", field, value, least, most);
  };
  THRESHER_RETURN_IF_ERROR(check("rated.clock_hz", spec.clock_hz(), 1e6, 1e12));
  THRESHER_RETURN_IF_ERROR(
      check("rated.giga_operations_per_second", spec.giga_operations_per_second(), 1e-3, 1e9));
  THRESHER_RETURN_IF_ERROR(check("rated.saved_share", spec.saved_share(), 0, 1));
  THRESHER_RETURN_IF_ERROR(check("rated.accuracy_loss", spec.accuracy_loss(), 0, 1));
  THRESHER_RETURN_IF_ERROR(check("rated.core_watts", spec.core_watts(), 1e-6, 1e6));
  THRESHER_RETURN_IF_ERROR(check("rated.io_watts", spec.io_watts(), 0, 1e6));
  THRESHER_RETURN_IF_ERROR(check("rated.volts", spec.volts(), 0, 10));
  THRESHER_RETURN_IF_ERROR(check("rated.multipliers", spec.multipliers(), 0, 1 << 24));
  THRESHER_RETURN_IF_ERROR(check("area_mm2", preset.area_mm2(), 0, 1e6));
  THRESHER_RETURN_IF_ERROR(check("technology_nm", preset.technology_nm(), 0, 1e4));
  if (preset.has_dram()) return InvalidArgument("dram: a rating has no memory of its own");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Accelerator>> CreateRated(const v1::Preset& preset) {
  const auto where = fmt::format("preset '{}'", preset.name());
  if (!preset.has_rated()) return InvalidArgument("{}: rated: is missing", where);
  THRESHER_RETURN_IF_ERROR(Annotate(CheckRatedSpec(preset), where));
  return std::make_unique<Rated>(preset);
}

BasisRating RatingOnBasis(const v1::Preset& preset) {
  const v1::RatedSpec& spec = preset.rated();
  BasisRating rating;
  const double gops = spec.giga_operations_per_second();
  if (spec.multipliers() > 0) {
    rating.operations_per_second =
        gops * 1e9 * kBasisMultiplierHertz / (spec.multipliers() * spec.clock_hz());
  }
  const double shrink = preset.technology_nm() / kBasisNanometres;
  if (!(shrink > 0)) return rating;
  if (preset.area_mm2() > 0) rating.gops_per_mm2 = gops / preset.area_mm2() * shrink * shrink;
  if (!(spec.volts() > 0)) return rating;
  const double voltage = kBasisVolts / spec.volts();
  const double core = spec.core_watts() / shrink * voltage * voltage;
  rating.gops_per_core_watt = gops / core;
  if (spec.io_watts() > 0) rating.gops_per_device_watt = gops / (core + spec.io_watts());
  return rating;
}

}  // namespace thresher
