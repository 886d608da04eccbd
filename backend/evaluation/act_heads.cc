#include "backend/evaluation/act_heads.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int32_t kFirstLayer = 2;

double MetricOf(const PolicyResult& result) {
  return result.quality.accuracy ? *result.quality.accuracy : result.quality.spearman.value_or(0);
}

}  // namespace

absl::StatusOr<ActHeads> FindActHeads(Runner& runner, Measure measure,
                                      std::span<const LabelledExample> examples, int32_t layers,
                                      int32_t heads, std::string_view policy,
                                      const SweepOptions& options) {
  if (layers <= kFirstLayer + 1) {
    return InvalidArgument(
        "act: the model has {} layers; the first {} and the last are left alone, so that none is "
        "left to calibrate",
        layers, kFirstLayer);
  }
  const auto with_heads = [policy](const std::vector<int32_t>& list) {
    return fmt::format("{}{}heads={}", policy, policy == "act" ? ":" : ",", fmt::join(list, "/"));
  };
  ActHeads found;
  std::vector<std::string> policies;
  for (int32_t layer = kFirstLayer; layer < layers - 1; ++layer) {
    for (int32_t head = 0; head < heads; ++head) {
      found.tried.push_back({.layer = layer, .head = head});
      policies.push_back(with_heads({layer * heads + head}));
    }
  }
  THRESHER_ASSIGN_OR_RETURN(const std::vector<PolicyResult> alone,
                            Sweep(runner, measure, examples, policies, options));
  found.dense = MetricOf(alone.front());
  found.together = found.dense;
  std::vector<int32_t> chosen;
  for (size_t i = 0; i < found.tried.size(); ++i) {
    ActHeads::Head& head = found.tried[i];
    head.gain = 0.0 - alone[i + 1].quality.loss;
    if (head.gain > 0) chosen.push_back(head.layer * heads + head.head);
  }
  if (chosen.empty()) return found;
  found.policy = with_heads(chosen);
  THRESHER_ASSIGN_OR_RETURN(const std::vector<PolicyResult> together,
                            Sweep(runner, measure, examples, {{found.policy}}, options));
  found.together = MetricOf(together.back());
  return found;
}

}  // namespace thresher
