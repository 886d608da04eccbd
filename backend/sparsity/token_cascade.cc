#include "backend/sparsity/token_cascade.h"

#include <algorithm>
#include <utility>

namespace thresher {

TokenCascade::TokenCascade(int32_t tokens, std::span<const int32_t> protected_positions)
    : protected_(static_cast<size_t>(tokens), 0) {
  for (const int32_t p : protected_positions) {
    if (p >= 0 && p < tokens) protected_[p] = 1;
  }
}

void TokenCascade::ProtectFirst(int32_t count) {
  std::fill_n(protected_.begin(), std::min<int64_t>(count, std::ssize(protected_)), uint8_t{1});
}

void TokenCascade::KeepBest(std::span<const int32_t> positions, std::span<const double> scores,
                            int64_t count, std::vector<int32_t>* rows) {
  if (count >= std::ssize(*rows)) return;
  scores_.clear();
  always_.clear();
  for (const int32_t row : *rows) {
    if (is_protected(positions[row])) always_.push_back(static_cast<int32_t>(scores_.size()));
    scores_.push_back(scores[row]);
  }
  std::vector<int32_t> kept;
  for (const int32_t i : top_k_(scores_, count, always_)) kept.push_back((*rows)[i]);
  *rows = std::move(kept);
}

void TokenCascade::KeepAbove(std::span<const int32_t> positions, std::span<const double> scores,
                             double threshold, std::vector<int32_t>* rows) {
  std::vector<int32_t> kept;
  for (const int32_t row : *rows) {
    if (is_protected(positions[row]) || scores[row] > threshold) kept.push_back(row);
  }
  if (kept.empty()) return KeepBest(positions, scores, 1, rows);
  *rows = std::move(kept);
}

}  // namespace thresher
