// How much a measurement on n examples can promise: one-sided upper confidence bounds.
#ifndef THRESHER_BACKEND_SPARSITY_CONFIDENCE_H_
#define THRESHER_BACKEND_SPARSITY_CONFIDENCE_H_

#include <cstdint>
#include <span>

namespace thresher {

/// Clopper and Pearson (Biometrika 26, 1934): the largest probability under which `successes` or
/// fewer of `trials` are no rarer than 1 - confidence. Exact: covers with at least `confidence`.
/// 0 <= successes <= trials; 1 when there are no trials; 0 < confidence < 1.
double BinomialUpperBound(int64_t successes, int64_t trials, double confidence);

/// The same examples answered twice, dense and pruned.
struct PairedCounts {
  int64_t both_right = 0;
  int64_t lost = 0;    // Dense right, pruned wrong.
  int64_t gained = 0;  // Dense wrong, pruned right.
  int64_t both_wrong = 0;

  int64_t n() const { return both_right + lost + gained + both_wrong; }
  /// Accuracy lost, in absolute points (0.01 is one point); negative when pruning gained. 0 for n
  /// 0.
  double loss() const;
};

/// Class numbers by example; the spans have one length.
PairedCounts CountPairs(std::span<const int32_t> labels, std::span<const int32_t> dense,
                        std::span<const int32_t> pruned);

/// Upper bound of the accuracy lost on examples like these, from the same n examples answered
/// twice: Tango's score interval for the difference of paired proportions (Statistics in Medicine
/// 17, 1998), one-sided; but never less than BinomialUpperBound(0, n), the share of examples unlike
/// all n that n may have missed. Like McNemar's test it lives on the examples where the two differ.
/// Exact where none was lost (nothing lost in 50 examples still allows 5.8 points at 95 %). With a
/// few lost the score interval is an approximation: at 95 % and true losses of 1 to 5 points
/// without gains it errs in up to 6.5 % of samples. 1 when n is 0.
double AccuracyLossUpperBound(const PairedCounts& counts, double confidence);

/// Upper bound of a mean from a sample of it: mean + z s / sqrt(n), which the central limit theorem
/// gives for n in the tens and up. Infinite for fewer than two values or one that is not finite.
double MeanUpperBound(std::span<const double> values, double confidence);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_CONFIDENCE_H_
