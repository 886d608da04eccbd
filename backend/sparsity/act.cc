#include "backend/sparsity/act.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

struct Settings {
  std::string text;
  std::vector<AttentionCalibration> layers;
};

class ActRun final : public PolicyRun {
 public:
  explicit ActRun(const Settings& settings) : settings_(settings) {}

  void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                        const LayerPrediction* prediction, SequencePlan* plan) override {
    if (!settings_.layers[layer].heads.empty()) plan->calibration = settings_.layers[layer];
  }

 private:
  const Settings& settings_;
};

class Act final : public Policy {
 public:
  explicit Act(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "act"; }
  bool is_dense() const override {
    return std::ranges::all_of(settings_.layers, [](const AttentionCalibration& layer) {
      return layer.heads.empty() || layer.beta == 1;
    });
  }
  double CostShare(int32_t tokens) const override { return 1.0; }
  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<ActRun>(settings_);
  }

 private:
  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeAct(const PolicyValues& values,
                                                      const PolicyShape& shape) {
  AttentionCalibration rule{.relative = !values.has("threshold"), .beta = values.number("beta")};
  rule.threshold = values.number(rule.relative ? "alpha" : "threshold");
  Settings settings{.text = values.Canonical(),
                    .layers = std::vector<AttentionCalibration>(shape.layers, rule)};
  if (values.has("heads")) {
    double before = -1;
    for (const double number : values.numbers("heads")) {
      if (number != std::floor(number) || number >= double{1} * shape.layers * shape.heads) {
        return InvalidArgument(
            "act: heads: {}; expected whole numbers layer x {} + head, below {}: the model has {} "
            "layers of {} heads",
            number, shape.heads, int64_t{shape.layers} * shape.heads, shape.layers, shape.heads);
      }
      if (number <= before) {
        return InvalidArgument("act: heads: {} after {}; expected an ascending list", number,
                               before);
      }
      const auto head = static_cast<int32_t>(number);
      settings.layers[head / shape.heads].heads.push_back(head % shape.heads);
      before = number;
    }
  } else {
    for (int32_t l = static_cast<int32_t>(values.number("first")); l + 1 < shape.layers; ++l) {
      for (int32_t h = 0; h < shape.heads; ++h) settings.layers[l].heads.push_back(h);
    }
  }
  return std::make_shared<const Act>(std::move(settings));
}

}  // namespace thresher
