#include "backend/scheduler/fleet.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace thresher {
namespace {

absl::Duration Ms(double ms) { return absl::Milliseconds(ms); }

/// One sequence at a time, ten milliseconds for each token.
FleetOptions OneByOne(int32_t devices) {
  FleetOptions options;
  options.devices = devices;
  options.scheduler.max_batch_sequences = 1;
  options.scheduler.max_queue = 1'000'000;
  options.service = [](std::span<const int32_t> tokens) {
    int64_t all = 0;
    for (const int32_t count : tokens) all += count;
    return Ms(10) * all;
  };
  return options;
}

std::vector<absl::Duration> Totals(const FleetResult& result) {
  std::vector<absl::Duration> totals;
  for (const FleetOutcome& outcome : result.outcomes) totals.push_back(outcome.total);
  return totals;
}

TEST(Fleet, ARequestWaitsForThoseBeforeIt) {
  const std::vector<FleetRequest> requests = {{.arrival = Ms(0), .tokens = 1},
                                              {.arrival = Ms(4), .tokens = 2},
                                              {.arrival = Ms(100), .tokens = 1}};
  const FleetResult result = RunFleet(requests, OneByOne(1));
  EXPECT_EQ(Totals(result), (std::vector<absl::Duration>{Ms(10), Ms(26), Ms(10)}));
  EXPECT_EQ(result.outcomes[1].queue, Ms(6));
  EXPECT_EQ(result.busy, std::vector<absl::Duration>{Ms(40)});
  EXPECT_EQ(result.end, Ms(110));
}

TEST(Fleet, WhatWaitsTogetherRunsTogether) {
  FleetOptions options = OneByOne(1);
  options.scheduler.max_batch_sequences = 8;
  std::vector<FleetRequest> requests(4, {.arrival = Ms(1), .tokens = 1});
  requests[0].arrival = Ms(0);
  const FleetResult result = RunFleet(requests, options);
  EXPECT_EQ(result.outcomes[0].batch_sequences, 1);
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(result.outcomes[i].batch_sequences, 3);
    EXPECT_EQ(result.outcomes[i].total, Ms(39));
  }
}

TEST(Fleet, ARequestGoesToTheDeviceWithTheLeastWork) {
  const std::vector<FleetRequest> requests = {{.arrival = Ms(0), .tokens = 5},
                                              {.arrival = Ms(1), .tokens = 1},
                                              {.arrival = Ms(2), .tokens = 1},
                                              {.arrival = Ms(60), .tokens = 1}};
  const FleetResult result = RunFleet(requests, OneByOne(2));
  EXPECT_EQ(result.outcomes[0].device, 0);
  EXPECT_EQ(result.outcomes[1].device, 1);
  EXPECT_EQ(result.outcomes[2].device, 1);
  EXPECT_EQ(result.outcomes[2].total, Ms(19));
  EXPECT_EQ(result.outcomes[3].device, 0);
  EXPECT_EQ(result.busy, (std::vector<absl::Duration>{Ms(60), Ms(20)}));
}

TEST(Fleet, AFullQueueRefusesAndADeadlineEndsTheWait) {
  FleetOptions options = OneByOne(1);
  options.scheduler.max_queue = 2;
  std::vector<FleetRequest> requests(4, {.arrival = Ms(1), .tokens = 1});
  requests[0].arrival = Ms(0);
  requests[2].deadline = Ms(5);  // Before the first one has ended.
  const FleetResult result = RunFleet(requests, options);
  EXPECT_EQ(result.outcomes[0].status, absl::StatusCode::kOk);
  EXPECT_EQ(result.outcomes[1].status, absl::StatusCode::kOk);
  EXPECT_EQ(result.outcomes[2].status, absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(result.outcomes[3].status, absl::StatusCode::kResourceExhausted);
}

std::vector<FleetRequest> Poisson(double rate, int count) {
  std::mt19937_64 random(1);
  std::vector<FleetRequest> requests;
  double time = 0.0;
  for (int i = 0; i < count; ++i) {
    time -= std::log(1.0 - static_cast<double>(random() >> 11) * 0x1p-53) / rate;
    requests.push_back({.arrival = absl::Seconds(time), .tokens = 1});
  }
  return requests;
}

TEST(Fleet, PoissonArrivalsAtOneDeviceWaitAsQueueingTheorySays) {
  // M/D/1 (Pollaczek and Khinchine): the mean wait is rho / (1 - rho) times half the service.
  const double rho = 0.7;
  const FleetResult result = RunFleet(Poisson(rho * 100.0, 40'000), OneByOne(1));
  double wait = 0.0;
  for (const FleetOutcome& outcome : result.outcomes) {
    ASSERT_EQ(outcome.status, absl::StatusCode::kOk);
    wait += absl::ToDoubleSeconds(outcome.total) - 0.01;
  }
  wait /= static_cast<double>(result.outcomes.size());
  EXPECT_NEAR(wait, rho / (1.0 - rho) * 0.005, 0.05 * 0.0117);
}

TEST(Fleet, TheSameLoadGivesTheSameAnswers) {
  FleetOptions options = OneByOne(3);
  options.scheduler.max_batch_sequences = 4;
  const std::vector<FleetRequest> requests = Poisson(280.0, 3000);
  const FleetResult once = RunFleet(requests, options);
  const FleetResult again = RunFleet(requests, options);
  EXPECT_EQ(Totals(once), Totals(again));
  EXPECT_EQ(once.busy, again.busy);
}

}  // namespace
}  // namespace thresher
