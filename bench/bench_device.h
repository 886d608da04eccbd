// What the benchmarks of the device and of whole models run on, and how they sum up their runs.
#ifndef THRESHER_BENCH_BENCH_DEVICE_H_
#define THRESHER_BENCH_BENCH_DEVICE_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/cpu_resources.h"
#include "backend/device/device.h"
#include "backend/tensor/status.h"

namespace thresher {

template <typename T>
T ValueOf(absl::StatusOr<T> result) {
  if (!result.ok()) throw std::runtime_error(Message(result.status()));
  return *std::move(result);
}

/// THRESHER_BENCH_THREADS, else the CPUs that this process may use.
inline int BenchThreads() {
  const char* wanted = std::getenv("THRESHER_BENCH_THREADS");
  return wanted != nullptr ? std::atoi(wanted) : DetectCpuResources().usable();
}

/// THRESHER_BENCH_DEVICE, else "cpu".
inline std::unique_ptr<Device> CreateBenchDevice(int threads = BenchThreads()) {
  const char* wanted = std::getenv("THRESHER_BENCH_DEVICE");
  return ValueOf(CreateDevice(wanted != nullptr ? wanted : "cpu", {.threads = threads}));
}

template <typename Work>
double SecondsOf(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// The time that half of the runs stay below: a disturbed run does not count.
inline double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace thresher

#endif  // THRESHER_BENCH_BENCH_DEVICE_H_
