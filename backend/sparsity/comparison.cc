#include "backend/sparsity/comparison.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace thresher {
namespace {

/// Logarithms of the softmax.
std::vector<double> LogSoftmax(std::span<const float> logits) {
  const double largest = *std::ranges::max_element(logits);
  double total = 0.0;
  for (const float logit : logits) total += std::exp(logit - largest);
  std::vector<double> out;
  for (const float logit : logits) out.push_back(logit - largest - std::log(total));
  return out;
}

/// Ranks from 1; equal values share the mean of theirs.
std::vector<double> Ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) { return values[i]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double mean = 0.5 * static_cast<double>(begin + 1 + end);
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = mean;
  }
  return ranks;
}

bool HasNan(std::span<const double> values) {
  return std::ranges::any_of(values, [](double value) { return std::isnan(value); });
}

}  // namespace

double KlDivergence(std::span<const float> dense_logits, std::span<const float> pruned_logits) {
  if (dense_logits.empty()) return 0.0;
  const std::vector<double> p = LogSoftmax(dense_logits);
  const std::vector<double> q = LogSoftmax(pruned_logits);
  double sum = 0.0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] > -std::numeric_limits<double>::infinity()) sum += std::exp(p[i]) * (p[i] - q[i]);
  }
  return std::max(sum, 0.0);  // Rounding may leave a little less than zero.
}

double CosineSimilarity(std::span<const float> a, std::span<const float> b) {
  double ab = 0.0;
  double aa = 0.0;
  double bb = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += double{a[i]} * b[i];
    aa += double{a[i]} * a[i];
    bb += double{b[i]} * b[i];
  }
  if (aa == 0.0 && bb == 0.0) return 1.0;
  if (aa == 0.0 || bb == 0.0) return 0.0;
  return std::clamp(ab / (std::sqrt(aa) * std::sqrt(bb)), -1.0, 1.0);
}

double PearsonCorrelation(std::span<const double> a, std::span<const double> b) {
  const auto n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double ab = 0.0;
  double aa = 0.0;
  double bb = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  if (aa == 0.0 || bb == 0.0) return std::numeric_limits<double>::quiet_NaN();
  return std::clamp(ab / (std::sqrt(aa) * std::sqrt(bb)), -1.0, 1.0);
}

double SpearmanCorrelation(std::span<const double> a, std::span<const double> b) {
  if (HasNan(a) || HasNan(b)) return std::numeric_limits<double>::quiet_NaN();
  return PearsonCorrelation(Ranks(a), Ranks(b));
}

}  // namespace thresher
