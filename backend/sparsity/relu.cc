#include "backend/sparsity/relu.h"

#include <string>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

class ReluRun final : public PolicyRun {
 public:
  explicit ReluRun(const ZeroSpeculation& rule) : rule_(rule) {}

  void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                        const LayerPrediction* prediction, SequencePlan* plan) override {
    plan->speculation = rule_;
  }

 private:
  const ZeroSpeculation rule_;
};

class Relu final : public Policy {
 public:
  Relu(std::string text, const ZeroSpeculation& rule) : text_(std::move(text)), rule_(rule) {}

  std::string text() const override { return text_; }
  std::string name() const override { return "relu"; }
  bool rules_attention() const override { return false; }
  std::optional<ZeroSpeculation> speculation() const override { return rule_; }
  /// How many outputs are zero is the text's affair, and the cpu device computes them all.
  double CostShare(int32_t tokens) const override { return 1.0; }
  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<ReluRun>(rule_);
  }

 private:
  const std::string text_;
  const ZeroSpeculation rule_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeRelu(const PolicyValues& values,
                                                       const PolicyShape& shape) {
  if (!shape.relu) {
    return InvalidArgument(
        "relu: needs a feed-forward network with a ReLU between two products, as OPT has; this "
        "model's activation is another one and makes no zeros");
  }
  return std::make_shared<const Relu>(
      values.Canonical(), ZeroSpeculation{.bits = static_cast<int32_t>(values.number("bits")),
                                          .margin = values.number("margin")});
}

}  // namespace thresher
