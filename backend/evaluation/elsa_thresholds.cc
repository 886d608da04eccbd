#include "backend/evaluation/elsa_thresholds.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace thresher {
namespace {

double Dot(const float* a, const float* b, int64_t size) {
  return std::inner_product(a, a + size, b, 0.0);
}

}  // namespace

class ElsaThresholds::Run final : public PolicyRun {
 public:
  explicit Run(const ElsaThresholds& owner) : owner_(owner) {}

  void BeforeScores(int32_t layer, std::span<const int32_t> positions, const LayerVectors& vectors,
                    const LayerPrediction* prediction, SequencePlan* plan) override {
    std::vector<double> sums(owner_.degrees_.size(), 0.0);
    for (int32_t head = 0; head < owner_.heads_; ++head) AddHead(head, vectors, sums);
    MutexLock lock(&owner_.mutex_);
    for (size_t d = 0; d < sums.size(); ++d) {
      owner_.sums_[d][static_cast<size_t>(layer)] += sums[d];
    }
    owner_.rows_[static_cast<size_t>(layer)] += owner_.heads_ * vectors.query.rows;
  }

 private:
  void AddHead(int32_t head, const LayerVectors& vectors, std::vector<double>& sums) {
    const int64_t dim = vectors.query.cols / owner_.heads_;
    const int64_t column = head * dim;
    const int64_t kv_column = head / (vectors.query.cols / vectors.key.cols) * dim;
    const int64_t keys = vectors.key.rows;
    double longest = 0.0;
    for (int64_t j = 0; j < keys; ++j) {
      const float* const k = vectors.key.row(j) + kv_column;
      longest = std::max(longest, std::sqrt(Dot(k, k, dim)));
    }
    scores_.resize(static_cast<size_t>(keys));
    for (int64_t i = 0; i < vectors.query.rows; ++i) {
      const float* const q = vectors.query.row(i) + column;
      const double length = std::sqrt(Dot(q, q, dim)) * longest;
      if (!(length > 0.0)) continue;  // All keys alike: a similarity of 0.
      for (int64_t j = 0; j < keys; ++j) {
        scores_[static_cast<size_t>(j)] = Dot(q, vectors.key.row(j) + kv_column, dim);
      }
      const double largest = *std::ranges::max_element(scores_);
      weights_.clear();
      for (const double score : scores_) {
        weights_.push_back(std::exp(vectors.scale * (score - largest)));
      }
      const double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
      for (size_t d = 0; d < sums.size(); ++d) {
        const double least_weight = owner_.degrees_[d] / static_cast<double>(keys) * total;
        // The least score is looked for, not the least similarity: the order is the same.
        double least = largest;
        for (size_t j = 0; j < scores_.size(); ++j) {
          if (weights_[j] > least_weight) least = std::min(least, scores_[j]);
        }
        sums[d] += least / length;
      }
    }
  }

  const ElsaThresholds& owner_;
  std::vector<double> scores_, weights_;
};

ElsaThresholds::ElsaThresholds(int32_t layers, int32_t heads, std::vector<double> degrees)
    : heads_(heads),
      degrees_(std::move(degrees)),
      sums_(degrees_.size(), std::vector<double>(static_cast<size_t>(layers), 0.0)),
      rows_(static_cast<size_t>(layers), 0) {}

std::vector<double> ElsaThresholds::Of(size_t d) const {
  MutexLock lock(&mutex_);
  std::vector<double> thresholds;
  for (size_t layer = 0; layer < rows_.size(); ++layer) {
    const double rows = static_cast<double>(std::max<int64_t>(rows_[layer], 1));
    thresholds.push_back(std::clamp(sums_[d][layer] / rows, 0.0, 1.0));
  }
  return thresholds;
}

std::string ElsaThresholds::PolicyOf(size_t d) const {
  std::string text;
  for (const double threshold : Of(d)) {
    text += fmt::format("{}{:.4f}", text.empty() ? "elsa:thresholds=" : "/", threshold);
  }
  return text;
}

std::unique_ptr<PolicyRun> ElsaThresholds::Start(int32_t, std::span<const int32_t>) const {
  return std::make_unique<Run>(*this);
}

}  // namespace thresher
