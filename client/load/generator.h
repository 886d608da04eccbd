// Whether a load generator measured the server or itself.
#ifndef THRESHER_CLIENT_LOAD_GENERATOR_H_
#define THRESHER_CLIENT_LOAD_GENERATOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/load/latency_histogram.h"

namespace thresher::load {

/// What the generator did in the measured time.
struct Generator {
  /// How much later than due each request was sent; in closed loop, from when a place became free.
  LatencyHistogram lateness;
  int64_t dropped = 0;     // Due, but not sent: as many as allowed were in flight.
  double process_cpu = 0;  // CPU seconds a second: of the whole process,
  double thread_cpu = 0;   // and of the thread that sends.
  int cpus = 1;            // That the process may use.
};

/// Why what was measured is the generator's limit and not the server's; empty: it is not.
/// `latency`: of the answers.
std::vector<std::string> LimitsOf(const Generator& generator, const LatencyHistogram& latency);

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_GENERATOR_H_
