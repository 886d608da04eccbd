#include "backend/sparsity/spatten.h"

#include <algorithm>
#include <utility>

#include "backend/device/top_k.h"
#include "backend/sparsity/schedule.h"
#include "backend/sparsity/spatten_cache.h"
#include "backend/sparsity/spatten_settings.h"
#include "backend/sparsity/token_cascade.h"
#include "backend/sparsity/work.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

using Importance = SpattenSettings::Importance;

/// Does any layer after `layer` keep fewer of n than `layer` itself does?
template <typename Count>
bool Shrinks(int32_t layer, int32_t layers, const Count& count) {
  return layer + 1 < layers && count(layers - 1) < count(layer);
}

class SpattenRun final : public PolicyRun {
 public:
  SpattenRun(const SpattenSettings& settings, int32_t tokens,
             std::span<const int32_t> protected_positions)
      : settings_(settings),
        tokens_(tokens),
        token_importance_(tokens, 0.0),
        group_importance_(settings.shape.kv_heads, 0.0),
        cascade_(tokens,
                 settings.protect_model ? protected_positions : std::span<const int32_t>()) {
    cascade_.ProtectFirst(settings.first);
    if (settings.importance != Importance::kRandom) return;
    for (int32_t p = 0; p < tokens; ++p) {
      token_importance_[p] = RandomRank(settings.seed, tokens, p);
    }
    for (size_t g = 0; g < group_importance_.size(); ++g) {
      group_importance_[g] = RandomRank(~settings.seed, tokens, g);
    }
  }

  void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                        const LayerPrediction* prediction, SequencePlan* plan) override {
    plan->value_keep = std::min(plan->value_keep, settings_.values);
    if (settings_.quantization) plan->quantization = settings_.quantization;
    if (settings_.importance == Importance::kRandom) return;
    const int32_t layers = settings_.shape.layers;
    plan->wanted.column_sums |= Shrinks(layer, layers, [&](int32_t l) { return Tokens(l); });
    plan->wanted.head_l1 |= Shrinks(layer, layers, [&](int32_t l) { return Groups(l); });
  }

  void AfterAttention(int32_t layer, std::span<const int32_t> positions,
                      const AttentionRecord& record, CascadeDecision* decision) override {
    Accumulate(positions, record);
    if (layer + 1 >= settings_.shape.layers) return;
    KeepTokens(positions, Tokens(layer + 1), &decision->rows);
    KeepHeads(Groups(layer + 1), &decision->heads);
  }

 private:
  int64_t Tokens(int32_t layer) const { return KeepCount(tokens_, settings_.tokens[layer]); }
  int32_t Groups(int32_t layer) const {
    return KeepFloor(settings_.shape.kv_heads, settings_.heads[layer]);
  }
  int32_t GroupOf(int32_t head) const {
    return head / (settings_.shape.heads / settings_.shape.kv_heads);
  }

  void Accumulate(std::span<const int32_t> positions, const AttentionRecord& record) {
    if (settings_.importance == Importance::kRandom) return;
    // Another part of the policy may have asked for either.
    const double sign = settings_.importance == Importance::kInverse ? -1.0 : 1.0;
    for (size_t row = 0; row < record.column_sums.size(); ++row) {
      token_importance_[positions[row]] += sign * record.column_sums[row];
    }
    for (size_t h = 0; h < record.head_l1.size(); ++h) {
      group_importance_[GroupOf(static_cast<int32_t>(h))] += sign * record.head_l1[h];
    }
  }

  void KeepTokens(std::span<const int32_t> positions, int64_t count, std::vector<int32_t>* rows) {
    scores_.clear();
    for (const int32_t position : positions) scores_.push_back(token_importance_[position]);
    cascade_.KeepBest(positions, scores_, count, rows);
  }

  void KeepHeads(int32_t count, std::vector<int32_t>* heads) {
    // The key-value groups that are present, ascending, and what they are worth.
    std::vector<int32_t> groups;
    scores_.clear();
    for (const int32_t head : *heads) {
      if (!groups.empty() && groups.back() == GroupOf(head)) continue;
      groups.push_back(GroupOf(head));
      scores_.push_back(group_importance_[groups.back()]);
    }
    if (count >= static_cast<int32_t>(groups.size())) return;
    std::vector<uint8_t> stays(group_importance_.size(), 0);
    for (const int32_t i : top_k_(scores_, count)) stays[groups[i]] = 1;
    std::erase_if(*heads, [&](int32_t head) { return !stays[GroupOf(head)]; });
  }

  const SpattenSettings& settings_;
  const int32_t tokens_;
  std::vector<double> token_importance_;  // By position.
  std::vector<double> group_importance_;
  TokenCascade cascade_;
  std::vector<double> scores_;
  TopK<double> top_k_;
};

class Spatten final : public Policy {
 public:
  explicit Spatten(SpattenSettings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "spatten"; }
  bool is_dense() const override {
    return settings_.tokens.back() == 1.0 && settings_.values == 1.0 && !settings_.quantization &&
           KeepFloor(settings_.shape.kv_heads, settings_.heads.back()) == settings_.shape.kv_heads;
  }

  bool chooses_rows() const override {
    return KeepFloor(settings_.shape.kv_heads, settings_.heads.back()) < settings_.shape.kv_heads;
  }

  double CostShare(int32_t tokens) const override {
    if (tokens <= 0) return 1.0;
    const PolicyShape& shape = settings_.shape;
    double work = 0.0;
    for (int32_t l = 0; l < shape.layers; ++l) {
      const auto kept = static_cast<double>(KeepCount(tokens, settings_.tokens[l]));
      work += LayerWorkOf(
          shape, kept,
          static_cast<double>(KeepFloor(shape.kv_heads, settings_.heads[l])) / shape.kv_heads);
    }
    return std::clamp(work / (LayerWorkOf(shape, tokens) * shape.layers), 1e-6, 1.0);
  }

  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<SpattenRun>(settings_, tokens, protected_positions);
  }

 private:
  const SpattenSettings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeSpatten(const PolicyValues& values,
                                                          const PolicyShape& shape) {
  THRESHER_ASSIGN_OR_RETURN(SpattenSettings settings, ReadSpattenSettings(values, shape));
  if (shape.causal) return MakeSpattenCache(std::move(settings));
  return std::make_shared<const Spatten>(std::move(settings));
}

}  // namespace thresher
