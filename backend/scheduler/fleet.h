// A fleet that need not be there: requests arrive at a number of modelled devices, each with the
// real scheduler in front of it, on a virtual clock. Hours of a load pass in seconds, and the same
// load gives the same answer every time.
//
// A request goes to the device with the least work waiting and running (the first of several).
// Queues, batches, refusals and deadlines are the scheduler's own (scheduler.h); only the time that
// a batch takes is said by the caller.
#ifndef THRESHER_BACKEND_SCHEDULER_FLEET_H_
#define THRESHER_BACKEND_SCHEDULER_FLEET_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "backend/scheduler/scheduler.h"

namespace thresher {

struct FleetRequest {
  absl::Duration arrival;  // From the beginning; none before the one before it.
  int32_t tokens = 0;      // At least 1.
  absl::Duration deadline = absl::InfiniteDuration();  // From its arrival.
};

struct FleetOptions {
  int32_t devices = 1;
  /// Of each device. Its clock is not used.
  SchedulerOptions scheduler;
  /// How long a device takes for a batch of sequences of these lengths. Called by one thread at a
  /// time.
  std::function<absl::Duration(std::span<const int32_t> tokens)> service;
  /// Called now and then with the number of requests that have arrived; false stops early.
  std::function<bool(int64_t arrived)> progress;
};

struct FleetOutcome {
  absl::StatusCode status = absl::StatusCode::kOk;
  absl::Duration queue, total;  // Of an answered request; total is from its arrival.
  int32_t device = 0;
  int32_t batch_sequences = 0;
};

struct FleetResult {
  std::vector<FleetOutcome> outcomes;  // Of each request that arrived.
  absl::Duration end;                  // When the last answer was given.
  std::vector<absl::Duration> busy;    // Of each device.
};

FleetResult RunFleet(std::span<const FleetRequest> requests, const FleetOptions& options);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SCHEDULER_FLEET_H_
