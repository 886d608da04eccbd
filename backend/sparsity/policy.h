// Policies: what to skip. A policy is parsed once from its text, `NAME[:key=value,...]`, parts joined
// by `+`; for each sequence it starts a PolicyRun that follows the layers through four hooks:
//
//   BeforeProjection  from the layer's input X and predictions of Q and K: candidates, rows to generate
//   BeforeScores      from Q and K: candidates
//   (attention)       under the plan's rules: value top-k, precision, refetch
//   AfterAttention    from the statistics: tokens and heads that later layers keep
//
// A composed policy runs its parts in the order written; each adds to the same plan. A policy knows
// the model's shape and asks the device for predictions, and never touches a device's internals.
//
// Policy is immutable and thread-safe; a PolicyRun belongs to one sequence on one thread.
#ifndef THRESHER_BACKEND_SPARSITY_POLICY_H_
#define THRESHER_BACKEND_SPARSITY_POLICY_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/plan.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// What a policy must know of a model.
struct PolicyShape {
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
};

/// What a layer looks like to the hook before projection. `scores[h]` is the predicted score matrix
/// [queries, keys] of head h (scaled by 1/sqrt(head_dim)); filled only if the policy said
/// needs_prediction().
struct LayerPrediction {
  std::span<const ConstMatrix> scores;
};

/// What holds for all later layers once a layer's attention has run.
struct CascadeDecision {
  bool tokens_changed = false;
  std::vector<int32_t> keep_rows;  // Rows of this layer that the next ones keep, ascending.
  bool heads_changed = false;
  std::vector<int32_t> keep_heads;  // Heads (model's numbering) that the next layers keep, ascending.
};

/// One sequence's way through the layers.
class PolicyRun {
 public:
  virtual ~PolicyRun() = default;
  /// Adds to the plan of `layer`, in which `rows` tokens are present. `prediction` is null unless
  /// needs_prediction().
  virtual void BeforeProjection(int32_t layer, int32_t rows, const LayerPrediction* prediction,
                                SequencePlan* plan) {}
  /// Decides for the layers after `layer`. Only narrows `decision`: what an earlier part of a composed
  /// policy dropped stays dropped.
  virtual void AfterAttention(int32_t layer, int32_t rows, const AttentionRecord& record,
                              CascadeDecision* decision) {}
};

class Policy {
 public:
  virtual ~Policy() = default;

  /// INVALID_ARGUMENT naming the key for anything wrong: an unknown policy or key (with those known), a
  /// value out of range, contradictory keys, an unreachable mean, a technique the model can't have.
  static absl::StatusOr<std::shared_ptr<const Policy>> Parse(std::string_view text,
                                                             const PolicyShape& shape);

  /// The policy in full, with every key, in the form that Parse takes. "dense" for none.
  virtual std::string text() const = 0;
  /// "dense", "spatten", "fact", "spatten+fact": the closed set that metrics are labelled with.
  virtual std::string name() const = 0;
  virtual bool is_dense() const { return false; }
  /// BeforeProjection wants FACT's eager prediction of the scores from the layer's input.
  virtual bool needs_prediction() const { return false; }
  /// Predicted work of a sequence of `tokens`, as a share of dense, for the scheduler: (0, 1].
  virtual double CostShare(int32_t tokens) const = 0;
  /// `tokens`: the sequence's length in layer 0; `protected_rows`: never dropped (ascending).
  virtual std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                           std::span<const int32_t> protected_rows) const = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_POLICY_H_
