#include "backend/sparsity/elsa.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
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
  std::vector<double> thresholds;  // By layer; none: dense.
  int32_t bits = 0;                // Of a hash.
  std::vector<float> cosines;      // By Hamming distance: of the estimated angle.
};

/// The norms of one head's part of each row of K.
std::vector<float> Norms(ConstMatrix key, int64_t column, int32_t dim) {
  std::vector<float> norms;
  for (int64_t j = 0; j < key.rows; ++j) {
    double squares = 0.0;
    for (int32_t d = 0; d < dim; ++d) {
      squares += double{key.row(j)[column + d]} * key.row(j)[column + d];
    }
    norms.push_back(static_cast<float>(std::sqrt(squares)));
  }
  return norms;
}

class ElsaRun final : public PolicyRun {
 public:
  explicit ElsaRun(const Settings& settings) : settings_(settings) {}

  void BeforeScores(int32_t layer, std::span<const int32_t> positions, const LayerVectors& vectors,
                    const LayerPrediction* prediction, SequencePlan* plan) override {
    if (prediction == nullptr) return;
    const int32_t heads = settings_.shape.heads;
    const int32_t kv_heads = settings_.shape.kv_heads;
    const int32_t dim = settings_.shape.head_dim;
    const auto rows = static_cast<int32_t>(positions.size());
    const auto threshold = static_cast<float>(settings_.thresholds[static_cast<size_t>(layer)]);
    std::vector<std::vector<float>> norms;  // By KV head.
    std::vector<float> least;
    for (int32_t h = 0; h < kv_heads; ++h) {
      norms.push_back(Norms(vectors.key, int64_t{h} * dim, dim));
      least.push_back(threshold * *std::ranges::max_element(norms.back()));
    }
    const std::optional<CandidateMask> earlier = std::move(plan->candidates);
    plan->candidates.emplace(heads, rows, rows);
    prediction->ForEachBlock(RunningHeads(*plan, heads), [&](int32_t head, int64_t first,
                                                             ConstMatrix products) {
      const auto kv_head = static_cast<size_t>(head / (heads / kv_heads));
      for (int64_t r = 0; r < products.rows; ++r) {
        const auto query = static_cast<int32_t>(first + r);
        Choose(products.row_span(r), norms[kv_head], least[kv_head],
               earlier ? earlier->row(head, query) : nullptr, plan->candidates->row(head, query));
      }
    });
  }

 private:
  void Choose(std::span<const float> products, std::span<const float> norms, float least,
              const uint64_t* allowed, uint64_t* bits) const {
    const auto set = [bits](size_t j) { bits[j / 64] |= uint64_t{1} << (j % 64); };
    std::optional<size_t> best;
    float best_similarity = 0.0f;
    bool any = false;
    for (size_t j = 0; j < products.size(); ++j) {
      if (allowed != nullptr && ((allowed[j / 64] >> (j % 64)) & 1) == 0) continue;
      const auto distance = static_cast<size_t>((settings_.bits - products[j]) / 2);
      const float similarity = norms[j] * settings_.cosines[distance];
      if (similarity >= least) {
        set(j);
        any = true;
      }
      if (!best || similarity > best_similarity) {
        best = j;
        best_similarity = similarity;
      }
    }
    if (!any && best) set(*best);
  }

  const Settings& settings_;
};

class Elsa final : public Policy {
 public:
  explicit Elsa(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "elsa"; }
  bool is_dense() const override { return settings_.thresholds.empty(); }
  PredictionRequest prediction() const override {
    if (is_dense()) return {};
    return {.kind = PredictionKind::kSignHash, .bits = 1, .width = settings_.bits};
  }
  double CostShare(int32_t tokens) const override {
    return PredictingCostShare(settings_.shape, tokens, prediction(), 0.0);
  }
  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<ElsaRun>(settings_);
  }

 private:
  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeElsa(const PolicyValues& values,
                                                       const PolicyShape& shape) {
  Settings settings{.shape = shape, .text = values.Canonical(), .bits = shape.head_dim};
  if (values.has("hash")) settings.bits = static_cast<int32_t>(values.number("hash"));
  if (settings.bits > shape.head_dim) {
    return InvalidArgument("elsa: hash={} is more than the {} dimensions of a head", settings.bits,
                           shape.head_dim);
  }
  if (values.has("thresholds")) {
    const std::span<const double> given = values.numbers("thresholds");
    if (given.size() != static_cast<size_t>(shape.layers)) {
      return InvalidArgument("elsa: thresholds has {} values; the model has {} layers",
                             given.size(), shape.layers);
    }
    settings.thresholds.assign(given.begin(), given.end());
  } else if (values.has("threshold")) {
    settings.thresholds.assign(static_cast<size_t>(shape.layers), values.number("threshold"));
  }
  for (int32_t distance = 0; distance <= settings.bits; ++distance) {
    const double angle =
        std::max(0.0, std::numbers::pi * distance / settings.bits - values.number("bias"));
    settings.cosines.push_back(static_cast<float>(std::cos(angle)));
  }
  return std::make_shared<const Elsa>(std::move(settings));
}

}  // namespace thresher
