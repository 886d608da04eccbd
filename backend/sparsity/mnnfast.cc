#include "backend/sparsity/mnnfast.h"

#include <algorithm>
#include <string>
#include <utility>

namespace thresher {
namespace {

class MnnFastRun final : public PolicyRun {
 public:
  explicit MnnFastRun(double threshold) : threshold_(threshold) {}

  void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                        const LayerPrediction* prediction, SequencePlan* plan) override {
    plan->value_threshold = std::max(plan->value_threshold, threshold_);
  }

 private:
  const double threshold_;
};

class MnnFast final : public Policy {
 public:
  MnnFast(std::string text, double threshold) : text_(std::move(text)), threshold_(threshold) {}

  std::string text() const override { return text_; }
  std::string name() const override { return "mnnfast"; }
  bool is_dense() const override { return threshold_ == 0; }
  /// All scores are made, and what is skipped of the values is the text's affair.
  double CostShare(int32_t tokens) const override { return 1.0; }
  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<MnnFastRun>(threshold_);
  }

 private:
  const std::string text_;
  const double threshold_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeMnnFast(const PolicyValues& values,
                                                          const PolicyShape& shape) {
  return std::make_shared<const MnnFast>(values.Canonical(), values.number("threshold"));
}

}  // namespace thresher
