#include "server/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <system_error>

namespace thresher {
namespace fs = std::filesystem;
using prometheus::MetricFamily;
using prometheus::MetricType;

namespace {

std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file) return std::nullopt;
  return text;
}

/// The fields of /proc/self/stat that are wanted. The second field, the program's name in
/// parentheses, may itself hold spaces and parentheses.
struct ProcessStat {
  double cpu_ticks = 0;
  double start_ticks = 0;
  double virtual_bytes = 0;
  double resident_pages = 0;
};

std::optional<ProcessStat> ReadProcessStat() {
  const auto text = ReadFile("/proc/self/stat");
  if (!text.has_value() || text->rfind(')') == std::string::npos) return std::nullopt;
  std::istringstream rest(text->substr(text->rfind(')') + 1));
  std::vector<std::string> fields(std::istream_iterator<std::string>(rest), {});
  // fields[0] is the third of proc(5): utime 14, stime 15, starttime 22, vsize 23, rss 24.
  if (fields.size() < 22) return std::nullopt;
  const auto field = [&](size_t number) {
    return std::strtod(fields[number - 3].c_str(), nullptr);
  };
  return ProcessStat{field(14) + field(15), field(22), field(23), field(24)};
}

/// Seconds since the epoch at which the machine booted.
std::optional<double> BootTime() {
  const auto text = ReadFile("/proc/stat");
  if (!text.has_value()) return std::nullopt;
  const size_t at = text->find("\nbtime ");
  if (at == std::string::npos) return std::nullopt;
  return std::strtod(text->c_str() + at + 7, nullptr);
}

std::optional<double> CountOpenFiles() {
  std::error_code code;
  double count = -1;  // The one that is open to count the others.
  for (auto it = fs::directory_iterator("/proc/self/fd", code);
       !code && it != fs::directory_iterator(); it.increment(code)) {
    ++count;
  }
  if (code) return std::nullopt;
  return count;
}

std::optional<CpuThrottling> ReadCpuThrottling() {
  std::vector<std::string> candidates = {"/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat"};
  // Outside a cgroup namespace the process's own group is somewhere below: lines
  // "ID:CONTROLLERS:PATH".
  std::istringstream groups(ReadFile("/proc/self/cgroup").value_or(""));
  for (std::string line; std::getline(groups, line);) {
    const size_t path = line.rfind(':');
    if (line.starts_with("0::")) {
      candidates.insert(candidates.begin(), "/sys/fs/cgroup" + line.substr(path + 1) + "/cpu.stat");
    } else if (line.find(":cpu,") != std::string::npos || line.find(":cpu:") != std::string::npos) {
      candidates.insert(candidates.begin(),
                        "/sys/fs/cgroup/cpu" + line.substr(path + 1) + "/cpu.stat");
    }
  }
  for (const std::string& path : candidates) {
    const auto throttling = ParseCpuStat(ReadFile(path).value_or(""));
    if (throttling.has_value()) return throttling;
  }
  return std::nullopt;
}

}  // namespace

MetricFamily SingleMetric(std::string_view name, std::string_view help, MetricType type,
                          double value) {
  MetricFamily family{std::string(name), std::string(help), type, {}};
  prometheus::ClientMetric& metric = family.metric.emplace_back();
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return family;
}

std::optional<CpuThrottling> ParseCpuStat(std::string_view text) {
  std::istringstream fields{std::string(text)};
  CpuThrottling throttling;
  bool complete = false;
  std::string name;
  for (double value = 0; fields >> name >> value;) {
    if (name == "nr_throttled") throttling.periods = static_cast<int64_t>(value);
    if (name == "throttled_usec") throttling.seconds = value / 1e6;
    if (name == "throttled_time") throttling.seconds = value / 1e9;
    complete = complete || name.starts_with("throttled_");
  }
  if (!complete) return std::nullopt;
  return throttling;
}

std::vector<MetricFamily> CollectProcessMetrics() {
  std::vector<MetricFamily> families;
  const auto add = [&families](std::string_view name, std::string_view help, MetricType type,
                               double value) {
    families.push_back(SingleMetric(name, help, type, value));
  };
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  if (const auto stat = ReadProcessStat(); stat.has_value()) {
    add("process_cpu_seconds_total", "User and system CPU time.", MetricType::Counter,
        stat->cpu_ticks / ticks);
    add("process_resident_memory_bytes", "Memory that is resident.", MetricType::Gauge,
        stat->resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE)));
    add("process_virtual_memory_bytes", "Memory that is mapped.", MetricType::Gauge,
        stat->virtual_bytes);
    if (const auto boot = BootTime(); boot.has_value()) {
      add("process_start_time_seconds", "Start of the process, since the epoch.", MetricType::Gauge,
          *boot + stat->start_ticks / ticks);
    }
  }
  if (const auto files = CountOpenFiles(); files.has_value()) {
    add("process_open_fds", "Open file descriptors.", MetricType::Gauge, *files);
  }
  if (rlimit limit; getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    add("process_max_fds", "Most file descriptors that may be open.", MetricType::Gauge,
        static_cast<double>(limit.rlim_cur));
  }
  if (const auto throttling = ReadCpuThrottling(); throttling.has_value()) {
    add("thresher_cpu_throttled_seconds_total",
        "Time for which the cgroup's CPU quota held back its threads, summed over CPUs.",
        MetricType::Counter, throttling->seconds);
    add("thresher_cpu_periods_throttled_total",
        "Scheduling periods in which the cgroup ran out of its CPU quota.", MetricType::Counter,
        static_cast<double>(throttling->periods));
  }
  return families;
}

}  // namespace thresher
