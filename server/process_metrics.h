// What the kernel knows of this process: memory, CPU time, files, and how often its cgroup was
// throttled. Read when scraped.
#ifndef THRESHER_SERVER_PROCESS_METRICS_H_
#define THRESHER_SERVER_PROCESS_METRICS_H_

#include <prometheus/metric_family.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace thresher {

/// process_* under the names that all Prometheus clients use, and thresher_cpu_throttled_* where
/// the cgroup has a CPU controller. What can't be read is left out.
std::vector<prometheus::MetricFamily> CollectProcessMetrics();

struct CpuThrottling {
  double seconds = 0;
  int64_t periods = 0;
};
/// The contents of cgroup's cpu.stat, version 2 (throttled_usec) or 1 (throttled_time,
/// nanoseconds); nothing if it lacks the fields.
std::optional<CpuThrottling> ParseCpuStat(std::string_view text);

/// A family of one series without labels.
prometheus::MetricFamily SingleMetric(std::string_view name, std::string_view help,
                                      prometheus::MetricType type, double value);

}  // namespace thresher

#endif  // THRESHER_SERVER_PROCESS_METRICS_H_
