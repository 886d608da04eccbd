// One level of load against a port: closed loop (so many calls in flight) or open loop (when a
// schedule says, whatever the server does). One thread, which never waits for an answer while
// another request is due.
//
// Latency counts from when a request was due. In open loop that is its scheduled time, however late
// it was sent, so that a server which stalls is charged for all that waited meanwhile; in closed
// loop it is when its place had become free and its making began.
#ifndef THRESHER_CLIENT_LOAD_LOAD_RUN_H_
#define THRESHER_CLIENT_LOAD_LOAD_RUN_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stop_token>
#include <vector>

#include "absl/time/time.h"
#include "client/load/bound.h"
#include "client/load/generator.h"
#include "client/load/port.h"
#include "client/load/schedule.h"
#include "client/load/tally.h"

namespace thresher::load {

/// For the eyes, while it runs.
struct LiveView {
  absl::Duration elapsed;  // Warm-up included; `total` too.
  absl::Duration total;    // Infinite: not known.
  bool warming_up = false;
  double rate = 0;  // Answers a second, in the last window.
  int64_t ok = 0;   // Since the warm-up.
  int64_t failed = 0;
  int64_t in_flight = 0;
  absl::Duration p50, p99;
};

struct RunOptions {
  /// Open loop; else closed.
  Schedule* schedule = nullptr;
  /// Closed loop: calls in flight. Open loop: more than so many are never in flight, and what is
  /// due beyond them is dropped and counted.
  int64_t concurrency = 1;
  /// Closed loop: all requests are due at the begin, and wait for their turn (MLPerf's Offline).
  bool due_at_begin = false;
  absl::Duration warmup;  // Requests due before its end are sent, but not counted.
  absl::Duration duration = absl::InfiniteDuration();       // After the warm-up.
  int64_t max_calls = std::numeric_limits<int64_t>::max();  // That count.
  int parts = 1;                                            // Of the workload.
  std::optional<Bound> bound;
  /// Ends as soon as so many requests were late or failed that the bound is broken for sure, if
  /// this is how many requests are expected; 0: never.
  double expected_calls = 0;
  absl::Duration window = absl::Seconds(1);  // Of the timeline.
  int cpus = 1;                              // That the process may use.
  std::function<void(const LiveView&)> show;
  std::stop_token stop;
};

/// A window of the timeline, by when answers came.
struct TimePoint {
  double seconds = 0;  // Its begin, after the warm-up.
  int64_t due = 0;
  int64_t ok = 0;
  int64_t failed = 0;
  absl::Duration p50, p99;  // Of its answers.
};

struct RunResult {
  /// Requests due in the measured time; each was dropped, or sent and ended somehow:
  /// due = generator.dropped + sent and sent = sum of all.outcomes.
  int64_t due = 0;
  int64_t sent = 0;
  Tally all;
  std::vector<Tally> parts;
  /// Requests a second that were due.
  double offered_rate = 0;
  /// Answers, good answers, inputs and generated tokens a second.
  double throughput = 0;
  double goodput = 0;
  double inputs_per_second = 0;
  double output_tokens_per_second = 0;
  double seconds = 0;  // That was measured.
  std::optional<Verdict> verdict;
  Generator generator;
  std::vector<TimePoint> timeline;
  bool gave_up = false;      // The bound was broken before the time was over.
  bool interrupted = false;  // By the stop token.
};

RunResult RunLoad(Port& port, const RunOptions& options);

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_LOAD_RUN_H_
