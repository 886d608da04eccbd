// Dense work of a layer in multiply-adds: what the predicted cost of a policy is a share of.
#ifndef THRESHER_BACKEND_SPARSITY_WORK_H_
#define THRESHER_BACKEND_SPARSITY_WORK_H_

#include <algorithm>

#include "backend/sparsity/policy.h"

namespace thresher {

/// Multiply-adds of one token in one layer outside the attention itself.
struct LinearWork {
  double projections = 0;  // Q, K, V and output.
  double ffn = 0;
};

inline LinearWork LinearWorkOf(const PolicyShape& shape) {
  const double hidden = shape.hidden_size;
  return {.projections = 2.0 * hidden * shape.head_dim * (shape.heads + shape.kv_heads),
          .ffn = hidden * shape.ffn_size * shape.ffn_matrices};
}

/// Multiply-adds of one token's scores and weighted values over `tokens` keys, all heads.
inline double AttentionWorkOf(const PolicyShape& shape, double tokens) {
  return 2.0 * tokens * shape.heads * shape.head_dim;
}

/// Multiply-adds of a layer of `tokens` rows in which so many of the heads (a share) run.
inline double LayerWorkOf(const PolicyShape& shape, double tokens, double heads = 1.0) {
  const LinearWork linear = LinearWorkOf(shape);
  return tokens * (heads * (linear.projections + AttentionWorkOf(shape, tokens)) + linear.ffn);
}

/// A decode step of a text of `tokens` against a dense one, when a layer reads so many keys and
/// values in the mean: (0, 1].
inline double DecodeCostShare(const PolicyShape& shape, int32_t tokens, double keys,
                              double values) {
  if (tokens <= 0) return 1.0;
  const LinearWork linear = LinearWorkOf(shape);
  const double rest = linear.projections + linear.ffn;
  const double work = rest + AttentionWorkOf(shape, (keys + values) / 2);
  return std::clamp(work / (rest + AttentionWorkOf(shape, tokens)), 1e-6, 1.0);
}

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_WORK_H_
