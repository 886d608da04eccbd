// How sure a run of n queries can be of a percentile: the early-stopping rule of MLPerf LoadGen.
//
// A query is late when it takes longer than some limit. If the chance to be late were 1 - p or
// more, so few late queries as were seen would be a rare luck: t of n are accepted when the
// binomial distribution gives t or fewer of n a probability below 1 - confidence. Then, at that
// confidence, the p-th percentile is within the limit. No distribution of latencies is assumed;
// that queries are late independently of each other is.
#ifndef THRESHER_CLIENT_LOAD_EARLY_STOPPING_H_
#define THRESHER_CLIENT_LOAD_EARLY_STOPPING_H_

#include <cstdint>
#include <optional>

namespace thresher::load {

/// LoadGen's.
inline constexpr double kConfidence = 0.99;

/// The probability of `late` or fewer of n, where each is late with probability 1 - p.
double ProbabilityOfSoFew(int64_t late, int64_t n, double p);

/// The least n of which `late` may be late. 0 < p < 1 and 0 < confidence < 1, here and below.
int64_t QueriesNeeded(int64_t late, double p, double confidence = kConfidence);

/// The most of n that may be late; -1 where n is too small to say anything.
int64_t MostLate(int64_t n, double p, double confidence = kConfidence);

/// Which rank from the top, 1 being the largest latency of all, the percentile is at most with that
/// confidence. As in LoadGen at least one query must be allowed to be late: 64 queries for p90, 662
/// for p99. Nothing: n is too small.
std::optional<int64_t> RankFromTop(int64_t n, double p, double confidence = kConfidence);

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_EARLY_STOPPING_H_
