// What all cascades of tokens do alike: some tokens never go, and of the others the best stay.
#ifndef THRESHER_BACKEND_SPARSITY_TOKEN_CASCADE_H_
#define THRESHER_BACKEND_SPARSITY_TOKEN_CASCADE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "backend/device/top_k.h"

namespace thresher {

/// Of one sequence. Tokens are numbered by position, as in layer 0.
class TokenCascade {
 public:
  /// A sequence of `tokens`, of which no `protected_positions` ever go; those that the sequence
  /// does not have are passed over.
  TokenCascade(int32_t tokens, std::span<const int32_t> protected_positions);

  /// The first `count` tokens never go either.
  void ProtectFirst(int32_t count);
  bool is_protected(int32_t position) const { return protected_[position] != 0; }

  /// Leaves `count` of `rows`, or as many as are protected if that is more: those and the ones with
  /// the largest scores[row], by the rule of TopK. `positions` and `scores` are by row of the
  /// layer.
  void KeepBest(std::span<const int32_t> positions, std::span<const double> scores, int64_t count,
                std::vector<int32_t>* rows);

  /// Leaves those of `rows` that are protected or whose score is above `threshold`; if there are
  /// none, the one with the largest score.
  void KeepAbove(std::span<const int32_t> positions, std::span<const double> scores,
                 double threshold, std::vector<int32_t>* rows);

 private:
  std::vector<uint8_t> protected_;
  std::vector<double> scores_;
  std::vector<int32_t> always_;
  TopK<double> top_k_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_TOKEN_CASCADE_H_
