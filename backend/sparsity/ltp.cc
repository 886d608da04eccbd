#include "backend/sparsity/ltp.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "backend/sparsity/token_cascade.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

struct Settings {
  PolicyShape shape;
  std::string text;
  std::vector<double> thresholds;  // One a layer; 0 drops nothing.
  bool protect_model = true;
};

class LtpRun final : public PolicyRun {
 public:
  LtpRun(const Settings& settings, int32_t tokens, std::span<const int32_t> protected_positions)
      : settings_(settings),
        cascade_(tokens,
                 settings.protect_model ? protected_positions : std::span<const int32_t>()) {}

  void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                        const LayerPrediction* prediction, SequencePlan* plan) override {
    if (!Drops(layer)) return;
    plan->wanted.column_sums = true;
    heads_ = plan->heads ? static_cast<int32_t>(plan->heads->size()) : settings_.shape.heads;
  }

  void AfterAttention(int32_t layer, std::span<const int32_t> positions,
                      const AttentionRecord& record, CascadeDecision* decision) override {
    if (!Drops(layer)) return;
    const double rows = static_cast<double>(heads_) * static_cast<double>(positions.size());
    cascade_.KeepAbove(positions, record.column_sums, settings_.thresholds[layer] * rows,
                       &decision->rows);
    decision->before_ffn = true;
  }

 private:
  bool Drops(int32_t layer) const { return settings_.thresholds[layer] > 0; }

  const Settings& settings_;
  TokenCascade cascade_;
  int32_t heads_ = 0;  // That run in this layer.
};

class Ltp final : public Policy {
 public:
  explicit Ltp(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "ltp"; }
  bool is_dense() const override {
    return std::ranges::all_of(settings_.thresholds, [](double t) { return t == 0; });
  }
  /// What goes is the text's affair, so that nothing less than all is promised.
  double CostShare(int32_t tokens) const override { return 1.0; }

  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<LtpRun>(settings_, tokens, protected_positions);
  }

 private:
  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeLtp(const PolicyValues& values,
                                                      const PolicyShape& shape) {
  Settings settings{.shape = shape,
                    .text = values.Canonical(),
                    .protect_model = values.text("protect") == "model"};
  if (values.has("thresholds")) {
    const std::span<const double> given = values.numbers("thresholds");
    if (given.size() != static_cast<size_t>(shape.layers)) {
      return InvalidArgument("ltp: thresholds has {} numbers; the model has {} layers",
                             given.size(), shape.layers);
    }
    settings.thresholds.assign(given.begin(), given.end());
  } else {
    for (int32_t l = 1; l <= shape.layers; ++l) {
      settings.thresholds.push_back(values.number("final") * l / shape.layers);
    }
  }
  return std::make_shared<const Ltp>(std::move(settings));
}

}  // namespace thresher
