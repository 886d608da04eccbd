// A prediction whose scores are given.
#ifndef THRESHER_TESTS_SPARSITY_GIVEN_SCORES_H_
#define THRESHER_TESTS_SPARSITY_GIVEN_SCORES_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/sparsity/policy.h"

namespace thresher::testing {

class GivenScores final : public LayerPrediction {
 public:
  /// scores[h] [rows, rows] of head h; those of heads that nobody asks for may be empty. In blocks
  /// of two queries.
  explicit GivenScores(std::vector<ConstMatrix> scores) : scores_(std::move(scores)) {}

  void ForEachBlock(std::span<const int32_t> heads, Body body) const override {
    constexpr int64_t kBlock = 2;
    for (const int32_t head : heads) {
      const ConstMatrix all = scores_[static_cast<size_t>(head)];
      for (int64_t i = 0; i < all.rows; i += kBlock) {
        body(head, i, all.Rows(i, std::min(kBlock, all.rows - i)));
      }
    }
  }

 private:
  std::vector<ConstMatrix> scores_;
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_SPARSITY_GIVEN_SCORES_H_
