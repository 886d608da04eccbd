// Leads an encoder policy's run through the layers as an engine does, with statistics made up by
// the test.
#ifndef THRESHER_TESTS_SPARSITY_LAYER_WALK_H_
#define THRESHER_TESTS_SPARSITY_LAYER_WALK_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "backend/sparsity/policy.h"

namespace thresher::testing {

inline std::vector<int32_t> Numbers(int32_t count) {
  std::vector<int32_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

class LayerWalk {
 public:
  LayerWalk(const Policy& policy, const PolicyShape& shape, int32_t tokens,
            const std::vector<int32_t>& protected_positions = {0})
      : run_(policy.Start(tokens, protected_positions)),
        positions_(Numbers(tokens)),
        heads_(Numbers(shape.heads)) {}

  /// What the next layers find: by position and head of the whole model.
  struct Found {
    std::vector<double> sums;
    std::vector<double> l1 = {};
    std::vector<double> self = {};
    ConstMatrix key = {};  // Of all positions: [tokens, kv_heads * head_dim].
  };

  void Layer(const std::vector<double>& sums, const std::vector<double>& l1 = {}) {
    Layer(Found{.sums = sums, .l1 = l1});
  }
  void Layer(const Found& found) {
    plan_ = {};
    plan_.heads = heads_;
    run_->BeforeProjection(layer_, positions_, nullptr, &plan_);
    if (found.key.data != nullptr) {
      MatrixBuffer key(static_cast<int64_t>(positions_.size()), found.key.cols);
      for (size_t row = 0; row < positions_.size(); ++row) {
        std::copy_n(found.key.row(positions_[row]), found.key.cols,
                    key.view().row(static_cast<int64_t>(row)));
      }
      run_->BeforeScores(layer_, positions_, {.query = key.view(), .key = key.view()}, nullptr,
                         &plan_);
    }
    AttentionRecord record;
    for (const int32_t p : positions_) {
      if (plan_.wanted.column_sums) record.column_sums.push_back(found.sums[p]);
      if (plan_.wanted.self_sums) record.self_sums.push_back(found.self[p]);
    }
    if (plan_.wanted.head_l1) record.head_l1 = found.l1;
    decision_ = {.rows = Numbers(static_cast<int32_t>(positions_.size())), .heads = heads_};
    run_->AfterAttention(layer_, positions_, record, &decision_);
    std::vector<int32_t> kept;
    for (const int32_t row : decision_.rows) kept.push_back(positions_[row]);
    positions_ = kept;
    heads_ = decision_.heads;
    EXPECT_FALSE(positions_.empty() || heads_.empty());
    ++layer_;
  }
  const std::vector<int32_t>& positions() const { return positions_; }
  const std::vector<int32_t>& heads() const { return heads_; }
  const SequencePlan& plan() const { return plan_; }
  /// Of the last layer.
  const CascadeDecision& decision() const { return decision_; }

 private:
  std::unique_ptr<PolicyRun> run_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> heads_;
  SequencePlan plan_;
  CascadeDecision decision_;
  int32_t layer_ = 0;
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_SPARSITY_LAYER_WALK_H_
