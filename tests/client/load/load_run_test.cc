#include "client/load/load_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace thresher::load {
namespace {

using ::testing::IsEmpty;
using ::testing::Not;

absl::Duration Ms(double n) { return absl::Milliseconds(1) * n; }

/// A server of some workers, each of which takes `service` for a call, in made-up time.
class QueuePort final : public Port {
 public:
  struct Options {
    int workers = 1;
    absl::Duration service = Ms(10);
    size_t queue = SIZE_MAX;   // Calls that are refused at once beyond so many in it.
    absl::Duration send_cost;  // That the generator takes to send.
    std::pair<absl::Duration, absl::Duration> stall;  // The workers stand still in this time.
    int parts = 1;
  };
  explicit QueuePort(const Options& options) : options_(options), free_(options.workers) {}

  absl::Duration Now() override { return now_; }
  CpuTime Cpu() override { return {absl::ToDoubleSeconds(busy_), absl::ToDoubleSeconds(busy_)}; }

  void Send(int64_t id) override {
    now_ += options_.send_cost;
    busy_ += options_.send_cost;
    Completion call = {.id = id, .part = static_cast<int>(id % options_.parts), .sent = now_};
    if (pending_.size() >= options_.queue) {
      call.code = absl::StatusCode::kResourceExhausted;
      call.message = "full";
      call.received = now_;
    } else {
      const auto worker = std::min_element(free_.begin(), free_.end());
      absl::Duration begin = std::max(*worker, now_);
      if (begin >= options_.stall.first) begin = std::max(begin, options_.stall.second);
      *worker = begin + options_.service;
      call.received = *worker;
      call.server =
          ServerTimes{.queue = begin - now_, .compute = options_.service, .total = *worker - now_};
    }
    pending_.emplace(call.received, call);
    most_ = std::max(most_, pending_.size());
    ++sent_;
    if (on_send) on_send(sent_);
  }

  void Wait(absl::Duration until, std::vector<Completion>* ended) override {
    if (cancelled_) {
      for (auto& [time, call] : pending_) {
        call.code = absl::StatusCode::kCancelled;
        call.received = now_;
        ended->push_back(call);
      }
      pending_.clear();
      cancelled_ = false;
      return;
    }
    const absl::Duration next =
        pending_.empty() ? absl::InfiniteDuration() : pending_.begin()->first;
    ASSERT_LT(std::min(next, until), absl::InfiniteDuration()) << "would wait for ever";
    now_ = std::max(now_, std::min(next, until));
    while (!pending_.empty() && pending_.begin()->first <= now_) {
      ended->push_back(pending_.begin()->second);
      pending_.erase(pending_.begin());
    }
  }
  void Wake() override {}
  void Cancel() override { cancelled_ = true; }

  size_t most() const { return most_; }
  int64_t sent() const { return sent_; }
  std::function<void(int64_t)> on_send;

 private:
  const Options options_;
  absl::Duration now_ = absl::Seconds(1000);
  absl::Duration busy_;
  std::vector<absl::Duration> free_;
  std::multimap<absl::Duration, Completion> pending_;
  size_t most_ = 0;
  int64_t sent_ = 0;
  bool cancelled_ = false;
};

RateSchedule Constant(double rate, absl::Duration time) {
  return RateSchedule({{time, rate, rate}}, std::nullopt);
}

void ExpectNothingLost(const RunResult& result) {
  int64_t outcomes = 0;
  for (const auto& [code, count] : result.all.outcomes) outcomes += count;
  EXPECT_EQ(outcomes, result.sent);
  EXPECT_EQ(result.due, result.sent + result.generator.dropped);
}

TEST(LoadRunTest, AClosedLoopKeepsItsCallsInFlight) {
  QueuePort port({.workers = 4, .service = Ms(10)});
  const RunResult result = RunLoad(port, {.concurrency = 4, .duration = absl::Seconds(1)});
  EXPECT_EQ(port.most(), 4u);
  EXPECT_EQ(result.due, 400);
  EXPECT_EQ(result.all.ok(), 400);
  EXPECT_EQ(result.all.latency.max(), Ms(10));
  EXPECT_EQ(result.seconds, 1);
  // The last four are answered just as the time is over.
  EXPECT_EQ(result.throughput, 396);
  EXPECT_EQ(result.offered_rate, 400);
  EXPECT_EQ(result.generator.lateness.max(), absl::ZeroDuration());
  ExpectNothingLost(result);
}

TEST(LoadRunTest, MoreCallsThanWorkersWaitInTheServersQueue) {
  QueuePort port({.workers = 1, .service = Ms(10)});
  const RunResult result =
      RunLoad(port, {.concurrency = 3, .warmup = Ms(100), .duration = absl::Seconds(1)});
  EXPECT_EQ(result.throughput, 100);
  EXPECT_EQ(result.all.latency.Percentile(0.5), Ms(30));
  const Split split = result.all.MeanSplit();
  EXPECT_EQ(split.queue, Ms(20));
  EXPECT_EQ(split.compute, Ms(10));
  EXPECT_EQ(split.network, Ms(0));
  EXPECT_EQ(split.client, Ms(0));
}

TEST(LoadRunTest, AnOpenLoopSendsByItsScheduleWhateverTheServerDoes) {
  QueuePort port({.workers = 1, .service = Ms(20)});
  RateSchedule schedule = Constant(100, absl::Seconds(1));
  const RunResult result =
      RunLoad(port, {.schedule = &schedule, .concurrency = 1000, .duration = absl::Seconds(1)});
  // Twice what the server can: the k-th waits for k services and came at k / 100.
  EXPECT_EQ(result.due, 100);
  EXPECT_EQ(result.offered_rate, 100);
  EXPECT_EQ(result.all.ok(), 100);
  EXPECT_EQ(result.throughput, 49);
  EXPECT_LE(result.all.latency.AtRank(1), Ms(20.2));
  EXPECT_EQ(result.all.latency.max(), Ms(100 * 20 - 990));
  ExpectNothingLost(result);
}

TEST(LoadRunTest, WarmUpRequestsAreSentAndNotCounted) {
  QueuePort port({});
  RateSchedule schedule = Constant(10, absl::Seconds(3));
  const RunResult result = RunLoad(port, {.schedule = &schedule,
                                          .concurrency = 10,
                                          .warmup = absl::Seconds(1),
                                          .duration = absl::Seconds(2)});
  EXPECT_EQ(port.sent(), 30);
  EXPECT_EQ(result.due, 20);
  EXPECT_EQ(result.all.ok(), 20);
  EXPECT_EQ(result.throughput, 10);
}

/// What closed loops and send-time clocks hide: the requests that were due while the server stood.
TEST(LoadRunTest, AStallIsChargedToAllThatWereDueInIt) {
  QueuePort port(
      {.workers = 1, .service = Ms(1), .stall = {absl::Seconds(1000.5), absl::Seconds(1001.5)}});
  RateSchedule schedule = Constant(100, absl::Seconds(10));
  const RunResult result =
      RunLoad(port, {.schedule = &schedule, .concurrency = 1000, .duration = absl::Seconds(10)});
  EXPECT_EQ(result.due, 1000);
  // A tenth of the requests were due in the second that the server stood.
  EXPECT_LE(result.all.latency.Percentile(0.85), Ms(1.01));
  EXPECT_GT(result.all.latency.Percentile(0.91), Ms(100));
  EXPECT_GT(result.all.latency.Percentile(0.99), Ms(800));
}

TEST(LoadRunTest, LatencyCountsFromTheScheduleWhenTheGeneratorIsLate) {
  // Sending takes twice the gap between requests: the generator falls behind.
  QueuePort port({.workers = 100, .service = Ms(1), .send_cost = Ms(2)});
  RateSchedule schedule = Constant(1000, absl::Seconds(1));
  const RunResult result = RunLoad(
      port, {.schedule = &schedule, .concurrency = 1000, .duration = absl::Seconds(1), .cpus = 2});
  // What was due is sent also after the time is over.
  EXPECT_EQ(result.due, 1000);
  EXPECT_EQ(result.all.ok(), 1000);
  EXPECT_GE(result.all.latency.max(), Ms(1000));
  EXPECT_GE(result.generator.lateness.max(), Ms(1000));
  EXPECT_NEAR(absl::ToDoubleSeconds(result.all.MeanSplit().client), 0.5, 0.1);
  EXPECT_THAT(LimitsOf(result.generator, result.all.latency), Not(IsEmpty()));
}

TEST(LoadRunTest, APunctualGeneratorIsNoLimit) {
  QueuePort port({.workers = 2, .service = Ms(15), .send_cost = absl::Microseconds(20)});
  RateSchedule schedule = Constant(100, absl::Seconds(2));
  const RunResult result = RunLoad(
      port, {.schedule = &schedule, .concurrency = 1000, .duration = absl::Seconds(2), .cpus = 2});
  EXPECT_THAT(LimitsOf(result.generator, result.all.latency), IsEmpty());
  EXPECT_NEAR(result.generator.thread_cpu, 0.002, 1e-4);
}

TEST(LoadRunTest, WhatIsDueBeyondTheLimitInFlightIsDroppedAndCounted) {
  QueuePort port({.workers = 1, .service = absl::Seconds(1)});
  RateSchedule schedule = Constant(10, absl::Seconds(2));
  const RunResult result =
      RunLoad(port, {.schedule = &schedule, .concurrency = 5, .duration = absl::Seconds(2)});
  EXPECT_EQ(port.most(), 5u);
  EXPECT_EQ(result.due, 20);
  EXPECT_EQ(result.sent, 6);  // Five, and one when the first had been answered.
  EXPECT_EQ(result.generator.dropped, 14);
  ExpectNothingLost(result);
}

TEST(LoadRunTest, RefusedCallsAreOutcomesAndNotLatencies) {
  QueuePort port({.workers = 1, .service = Ms(10), .queue = 3});
  RateSchedule schedule = Constant(500, absl::Seconds(1));
  const Bound bound = {.limit = Ms(30)};
  const RunResult result = RunLoad(
      port,
      {.schedule = &schedule, .concurrency = 1000, .duration = absl::Seconds(1), .bound = bound});
  EXPECT_EQ(result.due, 500);
  EXPECT_EQ(result.all.outcomes.at(absl::StatusCode::kOk) +
                result.all.outcomes.at(absl::StatusCode::kResourceExhausted),
            500);
  EXPECT_LE(result.all.latency.max(), Ms(30));
  EXPECT_NEAR(result.goodput, 100, 3);
  ASSERT_TRUE(result.verdict);
  EXPECT_FALSE(result.verdict->kept);  // Refused ones are late.
  ExpectNothingLost(result);
}

TEST(LoadRunTest, AScheduleThatNobodyCanKeepIsStillStopped) {
  std::stop_source stop;
  QueuePort port({.workers = 1, .service = Ms(1), .send_cost = Ms(1)});
  port.on_send = [&](int64_t sent) {
    if (sent == 1000) stop.request_stop();
  };
  RateSchedule schedule = Constant(100'000, absl::Seconds(1000));
  const RunResult result = RunLoad(port, {.schedule = &schedule,
                                          .concurrency = 1 << 20,
                                          .duration = absl::Seconds(1000),
                                          .stop = stop.get_token()});
  EXPECT_TRUE(result.interrupted);
  EXPECT_LT(result.sent, 1300);
  EXPECT_GT(result.all.ok(), 500);
  ExpectNothingLost(result);
}

TEST(LoadRunTest, ScheduleFromAFileEndsWithItsLastAnswer) {
  QueuePort port({.workers = 10, .service = Ms(500)});
  TimesSchedule schedule({Ms(0), Ms(0), Ms(1000), Ms(2000)});
  const RunResult result = RunLoad(port, {.schedule = &schedule, .concurrency = 10});
  EXPECT_EQ(result.due, 4);
  EXPECT_EQ(result.all.ok(), 4);
  EXPECT_EQ(result.seconds, 2.5);
  EXPECT_EQ(result.throughput, 4 / 2.5);
  EXPECT_EQ(result.offered_rate, 1.5);
}

TEST(LoadRunTest, OfflineIsDueAtOnceAndCountsFromThere) {
  QueuePort port({.workers = 2, .service = Ms(10)});
  const RunResult result = RunLoad(port, {.concurrency = 2, .due_at_begin = true, .max_calls = 20});
  EXPECT_EQ(port.most(), 2u);
  EXPECT_EQ(result.due, 20);
  EXPECT_EQ(result.all.latency.max(), Ms(100));
  EXPECT_EQ(result.seconds, 0.1);
  EXPECT_EQ(result.throughput, 200);
}

TEST(LoadRunTest, ACountEndsAClosedLoop) {
  QueuePort port({.workers = 1, .service = Ms(10)});
  const RunResult result =
      RunLoad(port, {.concurrency = 1, .duration = absl::Seconds(100), .max_calls = 64});
  EXPECT_EQ(result.due, 64);
  EXPECT_EQ(result.throughput, 100);
}

TEST(LoadRunTest, ABrokenBoundEndsTheRunEarlyWhereThatIsAsked) {
  QueuePort port({.workers = 1, .service = Ms(20)});
  RateSchedule schedule = Constant(100, absl::Seconds(100));
  const Bound bound = {.percentile = 0.99, .limit = Ms(100)};
  const RunResult result = RunLoad(port, {.schedule = &schedule,
                                          .concurrency = 100'000,
                                          .duration = absl::Seconds(100),
                                          .bound = bound,
                                          .expected_calls = 10'000});
  EXPECT_TRUE(result.gave_up);
  EXPECT_LT(result.due, 5000);
  ASSERT_TRUE(result.verdict);
  EXPECT_FALSE(result.verdict->kept);
  ExpectNothingLost(result);
}

TEST(LoadRunTest, ALightLoadKeepsItsBoundAndSaysWhetherItIsSure) {
  const Bound bound = {.percentile = 0.99, .limit = Ms(15)};
  for (const int64_t calls : {458, 459}) {
    QueuePort port({.workers = 1, .service = Ms(10)});
    const RunResult result = RunLoad(port, {.concurrency = 1, .max_calls = calls, .bound = bound});
    ASSERT_TRUE(result.verdict);
    EXPECT_TRUE(result.verdict->kept);
    EXPECT_EQ(result.verdict->sure, calls == 459);
  }
}

TEST(LoadRunTest, AStopEndsItAndLosesNothing) {
  std::stop_source stop;
  QueuePort port({.workers = 1, .service = Ms(10)});
  port.on_send = [&](int64_t sent) {
    if (sent == 50) stop.request_stop();
  };
  const RunResult result =
      RunLoad(port, {.concurrency = 4, .duration = absl::Seconds(1000), .stop = stop.get_token()});
  EXPECT_TRUE(result.interrupted);
  EXPECT_EQ(result.sent, 50);
  EXPECT_GT(result.all.outcomes.at(absl::StatusCode::kCancelled), 0);
  EXPECT_GT(result.all.outcomes.at(absl::StatusCode::kOk), 40);
  ExpectNothingLost(result);
}

TEST(LoadRunTest, TheTimelineHasAllThatWasDueAndAllAnswersInTime) {
  QueuePort port({.workers = 1, .service = Ms(10)});
  RateSchedule schedule({{absl::Seconds(1), 10, 10}, {absl::Seconds(1), 50, 50}}, std::nullopt);
  const RunResult result = RunLoad(
      port,
      {.schedule = &schedule, .concurrency = 100, .duration = absl::Seconds(2), .window = Ms(500)});
  ASSERT_EQ(result.timeline.size(), 4u);
  const std::vector<int64_t> due = {5, 5, 25, 25};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(result.timeline[i].due, due[i]);
    EXPECT_EQ(result.timeline[i].ok, due[i]);
    EXPECT_EQ(result.timeline[i].p99, Ms(10));
    EXPECT_EQ(result.timeline[i].seconds, 0.5 * static_cast<double>(i));
  }
}

TEST(LoadRunTest, PartsAddUpToAll) {
  QueuePort port({.workers = 4, .service = Ms(10), .parts = 3});
  const RunResult result =
      RunLoad(port, {.concurrency = 4, .duration = absl::Seconds(1), .parts = 3});
  int64_t ok = 0;
  for (const Tally& part : result.parts) ok += part.ok();
  EXPECT_EQ(ok, result.all.ok());
  EXPECT_GT(result.parts[2].ok(), 0);
}

TEST(LoadRunTest, TheViewShowsProgress) {
  QueuePort port({.workers = 1, .service = Ms(10)});
  std::vector<LiveView> views;
  RunLoad(port, {.concurrency = 1,
                 .warmup = Ms(500),
                 .duration = absl::Seconds(2),
                 .show = [&](const LiveView& view) { views.push_back(view); }});
  ASSERT_GE(views.size(), 20u);
  EXPECT_TRUE(views.front().warming_up);
  EXPECT_FALSE(views.back().warming_up);
  EXPECT_EQ(views.back().total, Ms(2500));
  EXPECT_NEAR(views.back().rate, 100, 5);
  EXPECT_EQ(views.back().p50, Ms(10));
  EXPECT_EQ(views.back().failed, 0);
}

}  // namespace
}  // namespace thresher::load
