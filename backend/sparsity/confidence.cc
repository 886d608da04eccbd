#include "backend/sparsity/confidence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

namespace thresher {
namespace {

/// Where a function that is true below some point of [low, high] and false above it turns.
template <typename Predicate>
double LastTrue(double low, double high, const Predicate& predicate) {
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (predicate(middle) ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

/// P(X <= successes) for X ~ Binomial(trials, p), 0 < p < 1.
double BinomialTail(int64_t successes, int64_t trials, double p) {
  const auto n = static_cast<double>(trials);
  double log_term = n * std::log1p(-p);  // X = 0
  double sum = std::exp(log_term);
  for (int64_t k = 1; k <= successes; ++k) {
    log_term += std::log((n - static_cast<double>(k) + 1) / static_cast<double>(k)) + std::log(p) -
                std::log1p(-p);
    sum += std::exp(log_term);
  }
  return sum;
}

/// z with P(Z <= z) = confidence for a standard normal Z.
double NormalQuantile(double confidence) {
  return LastTrue(-40.0, 40.0,
                  [&](double z) { return 0.5 * std::erfc(-z / std::numbers::sqrt2) < confidence; });
}

}  // namespace

double BinomialUpperBound(int64_t successes, int64_t trials, double confidence) {
  if (successes >= trials) return 1.0;
  return LastTrue(0.0, 1.0,
                  [&](double p) { return BinomialTail(successes, trials, p) >= 1.0 - confidence; });
}

double PairedCounts::loss() const {
  return n() == 0 ? 0.0 : static_cast<double>(lost - gained) / static_cast<double>(n());
}

PairedCounts CountPairs(std::span<const int32_t> labels, std::span<const int32_t> dense,
                        std::span<const int32_t> pruned) {
  PairedCounts counts;
  for (size_t i = 0; i < labels.size(); ++i) {
    const bool dense_right = dense[i] == labels[i];
    const bool pruned_right = pruned[i] == labels[i];
    ++(dense_right ? (pruned_right ? counts.both_right : counts.lost)
                   : (pruned_right ? counts.gained : counts.both_wrong));
  }
  return counts;
}

double AccuracyLossUpperBound(const PairedCounts& counts, double confidence) {
  if (counts.n() == 0) return 1.0;
  const auto n = static_cast<double>(counts.n());
  const auto lost = static_cast<double>(counts.lost);
  const auto gained = static_cast<double>(counts.gained);
  const double z = NormalQuantile(confidence);
  // A true loss of d is still believable if what was seen is at most z standard errors below it.
  // The standard error is the one under d: q is the likeliest probability of a gain, given d.
  const auto believable = [&](double d) {
    const double b = (2 * n - lost + gained) * d - lost - gained;
    const double root = std::sqrt(std::max(b * b + 8 * n * gained * d * (1 - d), 0.0));
    const double q = (root - b) / (4 * n);
    const double variance = n * std::max(2 * q + d * (1 - d), 0.0);
    return n * d - (lost - gained) <= z * std::sqrt(variance);
  };
  // The normal approximation behind it promises too much of samples without a loss.
  return std::max(LastTrue(counts.loss(), 1.0, believable),
                  BinomialUpperBound(0, counts.n(), confidence));
}

double MeanUpperBound(std::span<const double> values, double confidence) {
  const auto n = static_cast<double>(values.size());
  if (n < 2) return std::numeric_limits<double>::infinity();
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0.0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const double bound = mean + NormalQuantile(confidence) * std::sqrt(squares / (n - 1) / n);
  return std::isfinite(bound) ? bound : std::numeric_limits<double>::infinity();
}

}  // namespace thresher
