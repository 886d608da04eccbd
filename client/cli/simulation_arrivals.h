// `simulate --arrivals`: a load of requests against a number of modelled devices.
#ifndef THRESHER_CLIENT_CLI_SIMULATION_ARRIVALS_H_
#define THRESHER_CLIENT_CLI_SIMULATION_ARRIVALS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/engine/synthetic_layers.h"
#include "client/cli/format.h"
#include "thresher/v1/simulator.pb.h"

namespace thresher::cli {

struct ArrivalFlags {
  std::string arrivals;  // "poisson:rate=1000,seconds=10[,seed=1]", "constant:...", or a file.
  std::string lengths;   // As `thresher load --lengths`; empty: all of --tokens.
  std::vector<int32_t> devices = {1};
  int32_t max_batch_tokens = 4096;
  int32_t max_queue = 1024;
  absl::Duration deadline = absl::InfiniteDuration();
};

/// What a fleet of so many devices did.
struct FleetSummary {
  int32_t devices = 0;
  int64_t requests = 0, answered = 0, refused = 0, late = 0;
  double seconds = 0.0;  // Until the last answer.
  absl::Duration p50, p90, p99, p999, max, mean, queue_mean;
  double batch_mean = 0.0;
  double utilization = 0.0;  // Mean over the devices.
  double energy_joules = 0.0;
};

/// Runs the arrivals against each number of devices. A sequence's cost is that of `shape` with its
/// length, found once for each length (rounded up to a multiple of 8); a batch takes the sum.
absl::StatusOr<std::vector<FleetSummary>> SimulateArrivals(
    const v1::Preset& preset, const SyntheticOptions& shape, const ArrivalFlags& flags,
    bool attention_only, const std::function<bool(double share)>& progress);

Json ToJson(const FleetSummary& summary, const v1::Preset& preset);
std::string ToTable(const std::vector<FleetSummary>& summaries);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_SIMULATION_ARRIVALS_H_
