#include "client/load/early_stopping.h"

#include <math.h>

#include <algorithm>
#include <cmath>

namespace thresher::load {
namespace {

/// ln n!, without std::lgamma's global sign.
double LogFactorial(int64_t n) {
  int sign = 0;
  return lgamma_r(static_cast<double>(n) + 1, &sign);
}

/// Allows for the error of the sum, so that a probability that is the limit does not pass it.
bool Accepts(int64_t late, int64_t n, double p, double confidence) {
  return ProbabilityOfSoFew(late, n, p) < (1 - confidence) * (1 - 1e-9);
}

}  // namespace

double ProbabilityOfSoFew(int64_t late, int64_t n, double p) {
  if (late >= n) return 1;
  if (late < 0) return 0;
  const double odds = p / (1 - p);
  const auto at = [&](int64_t k) {
    return std::exp(LogFactorial(n) - LogFactorial(k) - LogFactorial(n - k) +
                    static_cast<double>(k) * std::log1p(-p) +
                    static_cast<double>(n - k) * std::log(p));
  };
  // The tail that does not hold the mean, so that terms fall from the first one on.
  double sum = 0;
  if (static_cast<double>(late) < static_cast<double>(n) * (1 - p)) {
    double term = at(late);
    for (int64_t k = late; k >= 0 && term > 1e-18 * sum; --k) {
      sum += term;
      term *= static_cast<double>(k) / static_cast<double>(n - k + 1) * odds;
    }
    return sum;
  }
  double term = at(late + 1);
  for (int64_t k = late + 1; k <= n && term > 1e-18 * sum; ++k) {
    sum += term;
    term *= static_cast<double>(n - k) / static_cast<double>(k + 1) / odds;
  }
  return 1 - sum;
}

int64_t QueriesNeeded(int64_t late, double p, double confidence) {
  // Falls as n grows: double, then halve the gap.
  int64_t enough = late + 1;
  while (!Accepts(late, enough, p, confidence)) enough *= 2;
  int64_t too_few = late;
  while (enough - too_few > 1) {
    const int64_t middle = too_few + (enough - too_few) / 2;
    (Accepts(late, middle, p, confidence) ? enough : too_few) = middle;
  }
  return enough;
}

int64_t MostLate(int64_t n, double p, double confidence) {
  int64_t accepted = -1;
  int64_t refused = n + 1;
  while (refused - accepted > 1) {
    const int64_t middle = accepted + (refused - accepted) / 2;
    (Accepts(middle, n, p, confidence) ? accepted : refused) = middle;
  }
  return accepted;
}

std::optional<int64_t> RankFromTop(int64_t n, double p, double confidence) {
  const int64_t late = MostLate(n, p, confidence);
  if (late < 1) return std::nullopt;
  return late;
}

}  // namespace thresher::load
