#include "backend/sparsity/powerbert.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/sparsity/schedule.h"
#include "backend/sparsity/token_cascade.h"
#include "backend/sparsity/work.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

struct Settings {
  PolicyShape shape;
  std::string text;
  // What each layer leaves to the next: either of the two.
  Schedule shares;
  std::vector<int32_t> counts;
  bool protect_model = true;

  int64_t Kept(int32_t tokens, int32_t layer) const {
    return counts.empty() ? KeepCount(tokens, shares[layer])
                          : std::min<int64_t>(tokens, counts[layer]);
  }
};

class PowerBertRun final : public PolicyRun {
 public:
  PowerBertRun(const Settings& settings, int32_t tokens,
               std::span<const int32_t> protected_positions)
      : settings_(settings),
        tokens_(tokens),
        cascade_(tokens,
                 settings.protect_model ? protected_positions : std::span<const int32_t>()) {}

  void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                        const LayerPrediction* prediction, SequencePlan* plan) override {
    if (!Drops(layer, std::ssize(positions))) return;
    plan->wanted.column_sums = true;
    plan->wanted.self_sums = true;
  }

  void AfterAttention(int32_t layer, std::span<const int32_t> positions,
                      const AttentionRecord& record, CascadeDecision* decision) override {
    if (!Drops(layer, std::ssize(positions))) return;
    significance_ = record.column_sums;
    for (size_t row = 0; row < significance_.size(); ++row) {
      significance_[row] -= record.self_sums[row];
    }
    cascade_.KeepBest(positions, significance_, settings_.Kept(tokens_, layer), &decision->rows);
    decision->before_ffn = true;
  }

 private:
  bool Drops(int32_t layer, int64_t rows) const { return settings_.Kept(tokens_, layer) < rows; }

  const Settings& settings_;
  const int32_t tokens_;
  TokenCascade cascade_;
  std::vector<double> significance_;  // By row.
};

class PowerBert final : public Policy {
 public:
  explicit PowerBert(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "powerbert"; }
  bool is_dense() const override {
    return settings_.counts.empty() && settings_.shares.back() == 1;
  }

  double CostShare(int32_t tokens) const override {
    if (tokens <= 0) return 1.0;
    const PolicyShape& shape = settings_.shape;
    const double ffn = LinearWorkOf(shape).ffn;
    double work = 0.0;
    double rows = tokens;
    for (int32_t l = 0; l < shape.layers; ++l) {
      const auto kept = static_cast<double>(settings_.Kept(tokens, l));
      work += LayerWorkOf(shape, rows) - (rows - kept) * ffn;
      rows = kept;
    }
    return std::clamp(work / (LayerWorkOf(shape, tokens) * shape.layers), 1e-6, 1.0);
  }

  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<PowerBertRun>(settings_, tokens, protected_positions);
  }

 private:
  const Settings settings_;
};

/// One number a layer, none above the one before.
absl::Status CheckRetention(std::string_view key, std::span<const double> list, int32_t layers) {
  if (list.size() != static_cast<size_t>(layers)) {
    return InvalidArgument("powerbert: {} has {} numbers; the model has {} layers", key,
                           list.size(), layers);
  }
  for (size_t l = 1; l < list.size(); ++l) {
    if (list[l] > list[l - 1]) {
      return InvalidArgument(
          "powerbert: {}: layer {} has {} after {}; a dropped token never comes back, so no number "
          "may be above the one before",
          key, l, list[l], list[l - 1]);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakePowerBert(const PolicyValues& values,
                                                            const PolicyShape& shape) {
  Settings settings{.shape = shape,
                    .text = values.Canonical(),
                    .protect_model = values.text("protect") == "model"};
  if (values.has("counts")) {
    const std::span<const double> counts = values.numbers("counts");
    THRESHER_RETURN_IF_ERROR(CheckRetention("counts", counts, shape.layers));
    for (const double count : counts) {
      if (count != std::floor(count)) {
        return InvalidArgument("powerbert: counts: {}; expected whole numbers of tokens", count);
      }
      settings.counts.push_back(static_cast<int32_t>(count));
    }
  } else if (values.has("keeps")) {
    const std::span<const double> keeps = values.numbers("keeps");
    THRESHER_RETURN_IF_ERROR(CheckRetention("keeps", keeps, shape.layers));
    settings.shares.assign(keeps.begin(), keeps.end());
  } else {
    settings.shares = ScheduleByFinal(shape.layers, 0, values.number("final"), ScheduleKind::kRamp);
  }
  return std::make_shared<const PowerBert>(std::move(settings));
}

}  // namespace thresher
