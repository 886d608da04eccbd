// What an overloaded server does with its time: minutes of load on the real scheduler before a
// modelled machine, on a virtual clock, so that every run is the same.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "backend/scheduler/fleet.h"

namespace thresher {
namespace {

/// A batch takes fixed + slope * tokens. The default is a BERT-base on a core.
struct Machine {
  double fixed = 0.02, slope = 0.0018;  // Seconds.
  double noise = 0.05;                  // Standard deviation of the logarithm.
  double slower_after = 1e9, slower = 1.0;

  /// Requests a second, in batches of 16 of the mean length.
  double Capacity() const { return 16 / (fixed + slope * 16 * 32); }
};

struct Summary {
  double good = 0;  // Answers a second that were in time,
  double late = 0;  // and that were not, or had to be given up.
  int64_t refused = 0, other = 0;
  double p99 = 0;  // Of the answers.
};

constexpr double kNoDeadline = 0;

/// A minute of texts of 20 to 44 tokens that arrive at random, after ten seconds that don't count.
Summary Load(const Machine& machine, double rate, double deadline) {
  constexpr double kBegin = 10, kEnd = 70;
  std::mt19937_64 random(1);
  std::exponential_distribution<double> gap(rate);
  std::uniform_int_distribution<int32_t> tokens(20, 44);
  std::lognormal_distribution<double> noise(0, machine.noise);
  const absl::Duration limit =
      deadline == kNoDeadline ? absl::InfiniteDuration() : absl::Seconds(deadline);
  std::vector<FleetRequest> requests;
  for (double time = gap(random); time < kEnd; time += gap(random)) {
    requests.push_back(
        {.arrival = absl::Seconds(time), .tokens = tokens(random), .deadline = limit});
  }
  FleetOptions options;
  options.scheduler.patience = absl::Seconds(1);
  double busy = 0;
  options.service = [&](std::span<const int32_t> batch) {
    double seconds = machine.fixed;
    for (const int32_t count : batch) seconds += machine.slope * count;
    seconds *= noise(random) * (busy > machine.slower_after ? machine.slower : 1);
    busy += seconds;
    return absl::Seconds(seconds);
  };
  const FleetResult result = RunFleet(requests, options);

  Summary summary;
  std::vector<double> answered;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].arrival < absl::Seconds(kBegin)) continue;
    const FleetOutcome& outcome = result.outcomes[i];
    if (outcome.status == absl::StatusCode::kResourceExhausted) {
      ++summary.refused;
    } else if (outcome.status == absl::StatusCode::kDeadlineExceeded || outcome.total > limit) {
      summary.late += 1 / (kEnd - kBegin);
    } else if (outcome.status == absl::StatusCode::kOk) {
      summary.good += 1 / (kEnd - kBegin);
      answered.push_back(absl::ToDoubleSeconds(outcome.total));
    } else {
      ++summary.other;
    }
  }
  std::ranges::sort(answered);
  if (!answered.empty()) summary.p99 = answered[answered.size() * 99 / 100];
  EXPECT_EQ(summary.other, 0);
  return summary;
}

TEST(OverloadTest, AnswersAtItsPeakAndRefusesTheRestBeforeTheyWaitLong) {
  const Machine machine;
  const double capacity = machine.Capacity();
  const Summary busy = Load(machine, 0.9 * capacity, kNoDeadline);
  EXPECT_LT(static_cast<double>(busy.refused), 0.01 * 0.9 * capacity * 60);
  for (const double deadline : {kNoDeadline, 10.0}) {  // A caller's deadline is no wish to wait.
    for (const double load : {2.5, 5.0}) {
      SCOPED_TRACE(testing::Message() << load << " of capacity, deadline " << deadline);
      const Summary over = Load(machine, load * capacity, deadline);
      EXPECT_GT(over.good, 0.95 * capacity);
      EXPECT_EQ(over.late, 0);
      EXPECT_GT(static_cast<double>(over.refused), (load - 1.1) * capacity * 60);
      EXPECT_LT(over.p99, 1.5 * busy.p99);
    }
  }
}

TEST(OverloadTest, WhatIsAcceptedMeetsItsDeadline) {
  const Machine machine;
  const double capacity = machine.Capacity();
  for (const double deadline : {1.0, 3.0}) {
    for (const double load : {0.9, 2.5, 5.0}) {
      SCOPED_TRACE(testing::Message() << load << " of capacity, deadline " << deadline);
      const Summary summary = Load(machine, load * capacity, deadline);
      EXPECT_GT(summary.good, 0.9 * std::min(load, 1.0) * capacity);
      EXPECT_LT(summary.late, 0.001 * capacity);
    }
  }
}

TEST(OverloadTest, ATightDeadlineCostsBatchingNotAnswers) {
  const Machine machine;  // One text takes 78 ms.
  const Summary summary = Load(machine, 5 * machine.Capacity(), 0.3);
  EXPECT_GT(summary.good, 0.75 * machine.Capacity());
  EXPECT_LT(summary.late, 0.001 * machine.Capacity());
}

TEST(OverloadTest, TimesThatNobodyCanPredictMakeFewLate) {
  // As on a processor that others use as well: one batch in twenty takes more than twice as long.
  const Machine machine{.noise = 0.5};
  for (const double load : {2.5, 5.0}) {
    SCOPED_TRACE(load);
    const Summary summary = Load(machine, load * machine.Capacity(), 1.0);
    EXPECT_GT(summary.good, 0.65 * machine.Capacity());
    EXPECT_LT(summary.late, 0.1 * machine.Capacity());
  }
}

TEST(OverloadTest, AMachineThatBecomesSlowerIsNotedAtOnce) {
  const Machine machine{.slower_after = 20, .slower = 3};
  const Summary summary = Load(machine, 3 * machine.Capacity(), 1.0);
  // Ten seconds of the minute at full speed, fifty at a third.
  EXPECT_GT(summary.good, 0.8 * (10 + 50.0 / 3) / 60 * machine.Capacity());
  EXPECT_LT(summary.late, 0.1 * summary.good);
}

TEST(OverloadTest, ASlowModelHasAQueueAllTheSame) {
  const Machine machine{.fixed = 0.2, .slope = 0.009};  // Two a second, about.
  const double capacity = machine.Capacity();
  const Summary busy = Load(machine, 0.9 * capacity, kNoDeadline);
  EXPECT_GT(busy.good, 0.85 * capacity);
  const Summary over = Load(machine, 5 * capacity, kNoDeadline);
  EXPECT_GT(over.good, 0.9 * capacity);
  EXPECT_LT(over.p99, 2 * busy.p99);
}

}  // namespace
}  // namespace thresher
