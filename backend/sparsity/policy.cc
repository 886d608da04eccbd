#include "backend/sparsity/policy.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "backend/sparsity/a3.h"
#include "backend/sparsity/act.h"
#include "backend/sparsity/dota.h"
#include "backend/sparsity/elsa.h"
#include "backend/sparsity/fact.h"
#include "backend/sparsity/h2o.h"
#include "backend/sparsity/ltp.h"
#include "backend/sparsity/mnnfast.h"
#include "backend/sparsity/policy_text.h"
#include "backend/sparsity/powerbert.h"
#include "backend/sparsity/principal.h"
#include "backend/sparsity/projection.h"
#include "backend/sparsity/quest.h"
#include "backend/sparsity/relu.h"
#include "backend/sparsity/routing.h"
#include "backend/sparsity/sanger.h"
#include "backend/sparsity/sinks.h"
#include "backend/sparsity/snapkv.h"
#include "backend/sparsity/sofa.h"
#include "backend/sparsity/spatten.h"
#include "backend/sparsity/tome.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Parts one after the other on the same plan. No part is dense: it changes nothing.
class CompositeRun final : public PolicyRun {
 public:
  explicit CompositeRun(std::vector<std::unique_ptr<PolicyRun>> parts) : parts_(std::move(parts)) {}

  void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                        const LayerPrediction* prediction, SequencePlan* plan) override {
    for (auto& part : parts_) part->BeforeProjection(layer, positions, prediction, plan);
  }
  void BeforeScores(int32_t layer, std::span<const int32_t> positions, const LayerVectors& vectors,
                    const LayerPrediction* prediction, SequencePlan* plan) override {
    for (auto& part : parts_) part->BeforeScores(layer, positions, vectors, prediction, plan);
  }
  void AfterAttention(int32_t layer, std::span<const int32_t> positions,
                      const AttentionRecord& record, CascadeDecision* decision) override {
    for (auto& part : parts_) part->AfterAttention(layer, positions, record, decision);
  }

 private:
  std::vector<std::unique_ptr<PolicyRun>> parts_;
};

class Composite final : public Policy {
 public:
  explicit Composite(std::vector<std::shared_ptr<const Policy>> parts) : parts_(std::move(parts)) {}

  std::string text() const override { return parts_.empty() ? "dense" : Join(&Policy::text); }
  std::string name() const override { return parts_.empty() ? "dense" : Join(&Policy::name); }
  bool is_dense() const override {
    return std::ranges::all_of(parts_, [](const auto& part) { return part->is_dense(); });
  }
  PredictionRequest prediction() const override {
    for (const auto& part : parts_) {
      if (part->prediction().wanted()) return part->prediction();
    }
    return {};
  }
  bool chooses_from_scores() const override {
    return std::ranges::any_of(parts_,
                               [](const auto& part) { return part->chooses_from_scores(); });
  }
  bool chooses_rows() const override {
    return std::ranges::any_of(parts_, [](const auto& part) { return part->chooses_rows(); });
  }
  int32_t low_ffn_bits() const override {
    for (const auto& part : parts_) {
      if (part->low_ffn_bits() > 0) return part->low_ffn_bits();
    }
    return 0;
  }
  std::optional<ZeroSpeculation> speculation() const override {
    for (const auto& part : parts_) {
      if (part->speculation()) return part->speculation();
    }
    return {};
  }
  double CostShare(int32_t tokens) const override {
    double share = 1.0;
    for (const auto& part : parts_) share *= part->CostShare(tokens);
    return share;
  }
  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    std::vector<std::unique_ptr<PolicyRun>> runs;
    for (const auto& part : parts_) runs.push_back(part->Start(tokens, protected_positions));
    return std::make_unique<CompositeRun>(std::move(runs));
  }

 private:
  std::string Join(std::string (Policy::*what)() const) const {
    std::string joined;
    for (const auto& part : parts_) joined += (joined.empty() ? "" : "+") + ((*part).*what)();
    return joined;
  }

  const std::vector<std::shared_ptr<const Policy>> parts_;
};

using MakePolicy = absl::StatusOr<std::shared_ptr<const Policy>> (*)(const PolicyValues&,
                                                                     const PolicyShape&);
constexpr std::pair<std::string_view, MakePolicy> kMakers[] = {{"spatten", MakeSpatten},
                                                               {"fact", MakeFact},
                                                               {"sinks", MakeSinks},
                                                               {"h2o", MakeH2o},
                                                               {"snapkv", MakeSnapKv},
                                                               {"quest", MakeQuest},
                                                               {"powerbert", MakePowerBert},
                                                               {"ltp", MakeLtp},
                                                               {"tome", MakeTome},
                                                               {"mnnfast", MakeMnnFast},
                                                               {"act", MakeAct},
                                                               {"a3", MakeA3},
                                                               {"routing", MakeRouting},
                                                               {"sanger", MakeSanger},
                                                               {"elsa", MakeElsa},
                                                               {"dota", MakeDota},
                                                               {"projection", MakeProjection},
                                                               {"sofa", MakeSofa},
                                                               {"principal", MakePrincipal},
                                                               {"relu", MakeRelu}};

absl::Status CheckShape(const PolicyShape& shape) {
  if (shape.layers > 0 && shape.heads > 0 && shape.kv_heads > 0 &&
      shape.heads % shape.kv_heads == 0) {
    return absl::OkStatus();
  }
  return InvalidArgument("policy: a model of {} layers, {} heads and {} key-value heads",
                         shape.layers, shape.heads, shape.kv_heads);
}

absl::Status CheckKind(std::span<const PolicyValues> parts, bool decoder) {
  for (const PolicyValues& values : parts) {
    const PolicySpec& spec = values.spec();
    if (decoder ? spec.decoders : spec.encoders) continue;
    return decoder ? InvalidArgument("{}: needs an encoder; this model is a decoder", spec.name)
                   : InvalidArgument(
                         "{}: needs a decoder; this model is an encoder, without a KV "
                         "cache",
                         spec.name);
  }
  if (decoder && parts.size() > 1) {
    return InvalidArgument("policy: {} parts joined by +; a decoder's KV cache is ruled by one",
                           parts.size());
  }
  return absl::OkStatus();
}

/// Parts that stand in each other's way: one layer has one prediction, and rows of Q and K that one
/// part left out are not there for another to choose from.
absl::Status CheckTogether(std::span<const std::shared_ptr<const Policy>> parts) {
  const Policy* predicts = nullptr;
  for (const auto& part : parts) {
    if (!part->prediction().wanted()) continue;
    if (predicts != nullptr && predicts->prediction() != part->prediction()) {
      return InvalidArgument(
          "policy: {} and {} predict scores in different ways; a policy has one prediction",
          predicts->name(), part->name());
    }
    predicts = part.get();
  }
  for (const auto& part : parts) {
    if (predicts != nullptr && predicts->prediction().from_input() && part->chooses_from_scores()) {
      return InvalidArgument(
          "policy: {} chooses from Q and K, of which {} leaves out rows; use one of them",
          part->name(), predicts->name());
    }
  }
  return absl::OkStatus();
}

}  // namespace

void CacheRun::Positions(int32_t slots, std::vector<int32_t>* positions) const {
  positions->resize(slots);
  std::iota(positions->begin(), positions->end(), 0);
}

absl::StatusOr<std::shared_ptr<const Policy>> Policy::Parse(std::string_view text,
                                                            const PolicyShape& shape) {
  THRESHER_RETURN_IF_ERROR(CheckShape(shape));
  THRESHER_ASSIGN_OR_RETURN(const std::vector<PolicyValues> parts, ParsePolicyText(text));
  THRESHER_RETURN_IF_ERROR(CheckKind(parts, shape.causal));
  std::vector<std::shared_ptr<const Policy>> policies;
  for (const PolicyValues& values : parts) {
    for (const auto& [name, make] : kMakers) {
      if (name != values.spec().name) continue;
      THRESHER_ASSIGN_OR_RETURN(std::shared_ptr<const Policy> policy, make(values, shape));
      if (policy->rules_attention() && !shape.attends) {
        return InvalidArgument(
            "{}: needs scores of queries and keys; this model's flow-attention has none", name);
      }
      policies.push_back(std::move(policy));
    }
  }
  if (policies.size() == 1) return policies[0];
  THRESHER_RETURN_IF_ERROR(CheckTogether(policies));
  return std::make_shared<const Composite>(std::move(policies));
}

}  // namespace thresher
