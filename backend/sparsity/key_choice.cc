#include "backend/sparsity/key_choice.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

#include "backend/sparsity/work.h"

namespace thresher {
namespace {

template <typename Body>
void ForEachSet(std::span<const uint64_t> bits, const Body& body) {
  for (size_t w = 0; w < bits.size(); ++w) {
    for (uint64_t rest = bits[w]; rest != 0; rest &= rest - 1) {
      body(w * 64 + static_cast<size_t>(std::countr_zero(rest)));
    }
  }
}

class PredictingRun final : public PolicyRun {
 public:
  explicit PredictingRun(const PredictingPolicy& policy) : policy_(policy) {}

  void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                        const LayerPrediction* prediction, SequencePlan* plan) override {
    Choose(positions, prediction, plan);
  }
  void BeforeScores(int32_t layer, std::span<const int32_t> positions, const LayerVectors& vectors,
                    const LayerPrediction* prediction, SequencePlan* plan) override {
    Choose(positions, prediction, plan);
  }

 private:
  void Choose(std::span<const int32_t> positions, const LayerPrediction* prediction,
              SequencePlan* plan) {
    if (prediction == nullptr) return;
    ChooseKeys(*prediction, policy_.rule, policy_.shape.heads,
               static_cast<int32_t>(positions.size()), plan);
  }

  const PredictingPolicy& policy_;
};

class Predicting final : public Policy {
 public:
  explicit Predicting(PredictingPolicy policy) : policy_(std::move(policy)) {}

  std::string text() const override { return policy_.text; }
  std::string name() const override { return policy_.name; }
  bool is_dense() const override { return policy_.rule.keeps_all(); }
  PredictionRequest prediction() const override {
    return is_dense() ? PredictionRequest() : policy_.prediction;
  }
  bool chooses_rows() const override { return prediction().from_input(); }
  double CostShare(int32_t tokens) const override {
    return PredictingCostShare(policy_.shape, tokens, prediction(), 0.0);
  }
  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<PredictingRun>(policy_);
  }

 private:
  const PredictingPolicy policy_;
};

}  // namespace

void RowChooser::Look(const float* row, int32_t rows, const uint64_t* allowed) {
  rows_ = rows;
  scores_ = {row, static_cast<size_t>(rows)};
  best_.reset();
  narrowed_ = allowed != nullptr;
  if (!narrowed_) return;
  keys_.clear();
  allowed_scores_.clear();
  for (int32_t j = 0; j < rows; ++j) {
    if (((allowed[j / 64] >> (j % 64)) & 1) == 0) continue;
    keys_.push_back(j);
    allowed_scores_.push_back(row[j]);
  }
  scores_ = allowed_scores_;
}

size_t RowChooser::BestIndex() {
  if (!best_) best_ = static_cast<size_t>(FirstLargest(scores_));
  return *best_;
}

int32_t RowChooser::best() { return Key(BestIndex()); }

double RowChooser::lead() {
  const size_t best = BestIndex();
  float second = -std::numeric_limits<float>::infinity();
  for (size_t n = 0; n < scores_.size(); ++n) {
    if (n != best && !(scores_[n] <= second)) second = scores_[n];
    if (std::isnan(second)) break;
  }
  return double{scores_[best]} - second;
}

void RowChooser::Choose(uint64_t* bits) {
  bits_.assign((scores_.size() + 63) / 64, 0);
  const int64_t count = KeepCount(rows_, rule_.topk);
  if (rule_.segments > 1) {
    ChooseBySegments(count);
  } else {
    top_k_(scores_, count, bits_.data());
  }
  if (rule_.threshold > 0.0) DropBelowThreshold();
  if (!narrowed_) {
    std::ranges::copy(bits_, bits);
    return;
  }
  ForEachSet(bits_, [&](size_t n) { bits[keys_[n] / 64] |= uint64_t{1} << (keys_[n] % 64); });
}

void RowChooser::ChooseBySegments(int64_t count) {
  const auto size = static_cast<int64_t>(scores_.size());
  const int64_t segments = rule_.segments;
  const int64_t quota = (count + segments - 1) / segments;
  for (int64_t s = 0; s < segments; ++s) {
    near_.clear();
    near_index_.clear();
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t n = s * size / segments; n < (s + 1) * size / segments; ++n) {
      const float score = scores_[static_cast<size_t>(n)];
      if (score < largest - rule_.radius) continue;
      largest = std::max(largest, score);
      near_.push_back(score);
      near_index_.push_back(static_cast<int32_t>(n));
    }
    for (const int32_t i : segment_top_k_(near_, quota)) {
      const auto n = static_cast<size_t>(near_index_[static_cast<size_t>(i)]);
      bits_[n / 64] |= uint64_t{1} << (n % 64);
    }
  }
}

void RowChooser::DropBelowThreshold() {
  const size_t best = BestIndex();
  const float largest = scores_[best];
  // In logarithms: the least score that is not left out.
  const double least = std::log(rule_.threshold * double{SumOfExp(scores_, largest)}) + largest;
  ForEachSet(bits_, [&](size_t n) {
    const bool low = rule_.above ? scores_[n] <= least : scores_[n] < least;
    if (n != best && low) bits_[n / 64] &= ~(uint64_t{1} << (n % 64));
  });
}

std::vector<int32_t> RunningHeads(const SequencePlan& plan, int32_t heads) {
  if (plan.heads) return *plan.heads;
  std::vector<int32_t> all(static_cast<size_t>(heads));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

void ChooseKeys(const LayerPrediction& prediction, const KeyRule& rule, int32_t heads, int32_t rows,
                SequencePlan* plan) {
  const std::optional<CandidateMask> earlier = std::move(plan->candidates);
  plan->candidates.emplace(heads, rows, rows);
  prediction.ForEachBlock(
      RunningHeads(*plan, heads), [&](int32_t head, int64_t first, ConstMatrix scores) {
        RowChooser chooser(rule);
        for (int64_t r = 0; r < scores.rows; ++r) {
          const auto query = static_cast<int32_t>(first + r);
          chooser.Look(scores.row(r), rows, earlier ? earlier->row(head, query) : nullptr);
          chooser.Choose(plan->candidates->row(head, query));
        }
      });
}

std::shared_ptr<const Policy> MakePredictingPolicy(PredictingPolicy policy) {
  return std::make_shared<const Predicting>(std::move(policy));
}

double PredictingCostShare(const PolicyShape& shape, int32_t tokens,
                           const PredictionRequest& prediction, double saved) {
  if (tokens <= 0) return 1.0;
  const LinearWork linear = LinearWorkOf(shape);
  const double attention = AttentionWorkOf(shape, tokens);
  double work = linear.projections + linear.ffn + attention - saved;
  if (prediction.wanted()) {
    // Narrow operands count half. Q and K are half of the projections, scores half of the
    // attention.
    const double width =
        prediction.width == 0 ? 1.0 : static_cast<double>(prediction.width) / shape.head_dim;
    work += width * attention / 4;
    if (prediction.from_input()) {
      const double rank =
          prediction.rank == 0 ? 1.0 : static_cast<double>(prediction.rank) / shape.hidden_size;
      work += width * rank * linear.projections / 4;
    }
  }
  return std::clamp(work / (linear.projections + linear.ffn + attention), 1e-6, 1.0);
}

}  // namespace thresher
