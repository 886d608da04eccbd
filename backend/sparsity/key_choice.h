// How a query chooses its keys by predicted scores, and the policies that do just that: one of the
// predictions of backend/device/prediction.h and one rule for all rows.
#ifndef THRESHER_BACKEND_SPARSITY_KEY_CHOICE_H_
#define THRESHER_BACKEND_SPARSITY_KEY_CHOICE_H_

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/device/plan.h"
#include "backend/device/prediction.h"
#include "backend/device/row_top_k.h"
#include "backend/device/top_k.h"
#include "backend/sparsity/policy.h"

namespace thresher {

/// Which keys of a row stay. The best one always does.
struct KeyRule {
  /// The ceil(topk * rows) largest (KeepCount, exact top-k).
  double topk = 1.0;
  /// SOFA's distributed sorting: of each of so many segments of the row, nearly alike in length,
  /// the ceil(count / segments) largest instead; 1: none.
  int32_t segments = 1;
  /// And of a segment only those that, when they are reached in order, lie within this below the
  /// largest so far. With segments only.
  double radius = std::numeric_limits<double>::infinity();
  /// Of these, the ones whose predicted probability, the softmax of the predicted scores over all
  /// that may be chosen, is at least this (`above`: more than this).
  double threshold = 0.0;
  bool above = false;

  bool keeps_all() const {
    return topk >= 1.0 && threshold <= 0.0 && (segments == 1 || std::isinf(radius));
  }
};

/// Chooses the keys of one query after the other. Keeps its memory; one thread at a time.
class RowChooser {
 public:
  explicit RowChooser(const KeyRule& rule) : rule_(rule) {}

  /// Takes up a row: the scores of all `rows` keys, of which only those whose bit of `allowed`
  /// (unless null) is set may be chosen; there is one at least. The row must live on.
  void Look(const float* row, int32_t rows, const uint64_t* allowed);
  /// The key with the largest score.
  int32_t best();
  /// By how much it leads the second; infinite if there is none, NaN if one lies beside it.
  double lead();
  /// Sets the bits of the keys that stay, in a row of zeros.
  void Choose(uint64_t* bits);

 private:
  int32_t Key(size_t n) const { return narrowed_ ? keys_[n] : static_cast<int32_t>(n); }
  size_t BestIndex();
  void ChooseBySegments(int64_t count);
  void DropBelowThreshold();

  const KeyRule rule_;
  int32_t rows_ = 0;
  std::span<const float> scores_;  // Of the keys that may be chosen,
  std::vector<int32_t> keys_;      // which are these, if narrowed_.
  std::vector<float> allowed_scores_;
  bool narrowed_ = false;
  std::optional<size_t> best_;  // Index into scores_.
  std::vector<uint64_t> bits_;  // By index into scores_.
  RowTopK top_k_;
  // Of a segment.
  std::vector<float> near_;
  std::vector<int32_t> near_index_;
  TopK<float> segment_top_k_;
};

/// The heads that run under a plan, ascending.
std::vector<int32_t> RunningHeads(const SequencePlan& plan, int32_t heads);

/// Chooses the candidates of all queries of the heads that run, among those that the plan has
/// already.
void ChooseKeys(const LayerPrediction& prediction, const KeyRule& rule, int32_t heads, int32_t rows,
                SequencePlan* plan);

/// A policy that is a prediction and a rule.
struct PredictingPolicy {
  PolicyShape shape;
  std::string name;
  std::string text;
  PredictionRequest prediction;
  KeyRule rule;
};
std::shared_ptr<const Policy> MakePredictingPolicy(PredictingPolicy policy);

/// Predicted work of a policy that predicts, as a share of dense: the prediction counts, what is
/// saved in the attention does not, since candidates shrink no matrix product of a general
/// processor; so the scheduler never promises too much. `saved`: multiply-adds of a token and
/// layer.
double PredictingCostShare(const PolicyShape& shape, int32_t tokens,
                           const PredictionRequest& prediction, double saved);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_KEY_CHOICE_H_
