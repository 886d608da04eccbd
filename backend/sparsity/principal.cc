#include "backend/sparsity/principal.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "backend/sparsity/key_choice.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

struct Settings {
  PolicyShape shape;
  std::string text;
  PredictionRequest prediction;
  KeyRule rule;
  double similar = 1.0;  // 1: nothing is reused.
};

double Cosine(const float* a, const float* b, int32_t dim) {
  double product = 0.0;
  double squares_a = 0.0;
  double squares_b = 0.0;
  for (int32_t d = 0; d < dim; ++d) {
    product += double{a[d]} * b[d];
    squares_a += double{a[d]} * a[d];
    squares_b += double{b[d]} * b[d];
  }
  return product / std::sqrt(squares_a * squares_b);
}

class PrincipalRun final : public PolicyRun {
 public:
  explicit PrincipalRun(const Settings& settings) : settings_(settings) {}

  void BeforeScores(int32_t layer, std::span<const int32_t> positions, const LayerVectors& vectors,
                    const LayerPrediction* prediction, SequencePlan* plan) override {
    if (prediction == nullptr) return;
    const bool narrowed = plan->candidates.has_value();
    ChooseKeys(*prediction, settings_.rule, settings_.shape.heads,
               static_cast<int32_t>(positions.size()), plan);
    // What an earlier part left a row is not another row's to use.
    if (settings_.similar < 1.0 && !narrowed) Reuse(vectors, plan);
  }

 private:
  void Reuse(const LayerVectors& vectors, SequencePlan* plan) const {
    CandidateMask& mask = *plan->candidates;
    const int32_t dim = settings_.shape.head_dim;
    for (const int32_t head : RunningHeads(*plan, settings_.shape.heads)) {
      int32_t chooser = 0;  // The last query that chose for itself.
      for (int32_t query = 1; query < mask.queries(); ++query) {
        const int64_t column = int64_t{head} * dim;
        const double cosine =
            Cosine(vectors.query.row(query) + column, vectors.query.row(chooser) + column, dim);
        if (cosine >= settings_.similar) {
          std::copy_n(mask.row(head, chooser), mask.words(), mask.row(head, query));
        } else {
          chooser = query;
        }
      }
    }
  }

  const Settings& settings_;
};

class Principal final : public Policy {
 public:
  explicit Principal(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "principal"; }
  bool is_dense() const override { return settings_.rule.keeps_all(); }
  PredictionRequest prediction() const override {
    return is_dense() ? PredictionRequest() : settings_.prediction;
  }
  double CostShare(int32_t tokens) const override {
    return PredictingCostShare(settings_.shape, tokens, prediction(), 0.0);
  }
  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<PrincipalRun>(settings_);
  }

 private:
  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakePrincipal(const PolicyValues& values,
                                                            const PolicyShape& shape) {
  Settings settings{.shape = shape,
                    .text = values.Canonical(),
                    .prediction = {.kind = PredictionKind::kPrincipal,
                                   .bits = static_cast<int32_t>(values.number("bits")),
                                   .width = static_cast<int32_t>(values.number("components"))},
                    .rule = {.topk = values.number("topk")},
                    .similar = values.number("similar")};
  if (settings.prediction.width > shape.head_dim) {
    return InvalidArgument("principal: components={} is more than the {} dimensions of a head",
                           settings.prediction.width, shape.head_dim);
  }
  return std::make_shared<const Principal>(std::move(settings));
}

}  // namespace thresher
