// How far pruned outputs are from dense ones, and how well scores follow a gold standard.
//
// Accuracy alone hides drift: `evaluate` reports these beside it, `calibrate` bounds them.
#ifndef THRESHER_BACKEND_SPARSITY_COMPARISON_H_
#define THRESHER_BACKEND_SPARSITY_COMPARISON_H_

#include <span>

namespace thresher {

// Spans of one call have one length.

/// KL(dense || pruned) of the softmax of two rows of logits, in nats: 0 for equal distributions,
/// infinite where pruned rules out what dense does not. 0 for empty rows.
double KlDivergence(std::span<const float> dense_logits, std::span<const float> pruned_logits);

/// Cosine of the angle between two vectors; 1 if both are zero, 0 if one is.
double CosineSimilarity(std::span<const float> a, std::span<const float> b);

/// Pearson's correlation; NaN (undefined) for fewer than two values or a constant side.
double PearsonCorrelation(std::span<const double> a, std::span<const double> b);

/// Spearman's rank correlation: Pearson's of the ranks, equal values sharing the mean of their
/// ranks.
double SpearmanCorrelation(std::span<const double> a, std::span<const double> b);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_COMPARISON_H_
