// A bound on latency: a percentile and its limit, and whether a run kept it.
#ifndef THRESHER_CLIENT_LOAD_BOUND_H_
#define THRESHER_CLIENT_LOAD_BOUND_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace thresher::load {

struct Bound {
  enum class Of { kLatency, kFirstToken };

  /// "p99=50ms", "p99.9=1s" (or p999), "first_token:p90=200ms"; p99.999 at most.
  /// INVALID_ARGUMENT else.
  static absl::StatusOr<Bound> Parse(std::string_view text);

  Of of = Of::kLatency;
  double percentile = 0.99;  // In (0, 1).
  absl::Duration limit;
};

/// "p99.9" for 0.999.
std::string PercentileName(double percentile);

/// What a run of `queries` says of a bound, `late` of them over the limit, failed or dropped.
struct Verdict {
  int64_t queries = 0;
  int64_t late = 0;
  /// The run's own percentile is within the limit.
  bool kept = false;
  /// It would be in another run too: LoadGen's early-stopping rule accepts that many late ones.
  bool sure = false;
  /// With so many late ones, the run's least size at which it is sure.
  int64_t queries_needed = 0;
};
Verdict Judge(const Bound& bound, int64_t queries, int64_t late);

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_BOUND_H_
