#include "client/load/generator.h"

#include <fmt/format.h>

namespace thresher::load {

std::vector<std::string> LimitsOf(const Generator& generator, const LatencyHistogram& latency) {
  std::vector<std::string> limits;
  const absl::Duration late = generator.lateness.Percentile(0.99);
  const absl::Duration slow = latency.Percentile(0.99);
  // A wake-up on a busy machine is late by some tenths of a millisecond; that is no limit.
  if (late > absl::Milliseconds(1) && late > slow / 10) {
    limits.push_back(
        fmt::format("p99 of how late requests were sent is {:.2f} ms, against {:.2f} ms of latency",
                    absl::ToDoubleMilliseconds(late), absl::ToDoubleMilliseconds(slow)));
  }
  if (generator.thread_cpu > 0.9) {
    limits.push_back(fmt::format("the thread that sends is busy {:.0f} % of the time",
                                 100 * generator.thread_cpu));
  }
  if (generator.process_cpu > 0.9 * generator.cpus) {
    limits.push_back(fmt::format("the process takes {:.2f} of its {} CPUs", generator.process_cpu,
                                 generator.cpus));
  }
  if (generator.dropped > 0) {
    limits.push_back(fmt::format(
        "{} requests were not sent, since --max-in-flight others waited for their answers",
        generator.dropped));
  }
  return limits;
}

}  // namespace thresher::load
