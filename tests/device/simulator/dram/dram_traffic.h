// Drives a memory with requests as fast as it takes them, with a bounded number outstanding.
#ifndef THRESHER_TESTS_DEVICE_SIMULATOR_DRAM_DRAM_TRAFFIC_H_
#define THRESHER_TESTS_DEVICE_SIMULATOR_DRAM_DRAM_TRAFFIC_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend/device/simulator/dram/dram.h"

namespace thresher::testing {

struct TrafficResult {
  std::vector<DramCompletion> completions;
  int64_t end_ps = 0;  // Of the last one.

  double GigabytesPerSecond(int32_t burst_bytes, size_t warm_up = 0) const {
    const int64_t begin_ps = warm_up == 0 ? 0 : completions[warm_up - 1].time_ps;
    const auto bytes = static_cast<double>((completions.size() - warm_up) * burst_bytes);
    return bytes / static_cast<double>(end_ps - begin_ps) * 1000;
  }
};

/// `next(i)` is the i-th request; its tag is set to i. Begins at `now_ps`.
template <typename Next>
TrafficResult Drive(Dram& dram, int64_t requests, Next next,
                    int64_t outstanding = std::numeric_limits<int64_t>::max(), int64_t now_ps = 0) {
  TrafficResult result;
  int64_t sent = 0;
  DramRequest request = next(0);
  while (static_cast<int64_t>(result.completions.size()) < requests) {
    while (sent < requests &&
           sent - static_cast<int64_t>(result.completions.size()) < outstanding) {
      request.tag = static_cast<uint64_t>(sent);
      if (!dram.TrySend(request, now_ps)) break;
      request = next(++sent);
    }
    const int64_t event = dram.NextEvent();
    if (event == Dram::kNever) break;  // Nothing in it: the caller sees that completions are short.
    now_ps = std::max(now_ps, event);
    dram.AdvanceTo(now_ps, &result.completions);
  }
  if (!result.completions.empty()) result.end_ps = result.completions.back().time_ps;
  return result;
}

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_DEVICE_SIMULATOR_DRAM_DRAM_TRAFFIC_H_
