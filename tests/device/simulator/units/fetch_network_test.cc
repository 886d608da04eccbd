#include "backend/device/simulator/units/fetch_network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "tests/device/simulator/dram/fixed_dram.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;

/// Ticks until all is done; the cycle of each job's end, by cookie.
std::map<uint64_t, int64_t> RunAll(FetchNetwork* network, int64_t now = 0) {
  std::map<uint64_t, int64_t> ends;
  std::vector<FetchNetwork::Completion> completions;
  while (true) {
    now = network->NextTick(now);
    if (now == FetchNetwork::kNever) return ends;
    completions.clear();
    network->Tick(now, &completions);
    for (const auto& completion : completions) {
      EXPECT_EQ(ends.count(completion.cookie), 0) << "ends once";
      ends[completion.cookie] = completion.cycle;
    }
  }
}

FetchJob Words(uint64_t cookie, uint64_t base, int64_t count, int32_t bursts, uint64_t stride = 0) {
  FetchPart part;
  part.base = base;
  part.count = count;
  part.bursts = bursts;
  part.stride = stride > 0 ? stride : static_cast<uint64_t>(bursts) * 32;
  return {{part}, cookie};
}

TEST(FetchNetwork, OneLaneEmitsATransactionACycle) {
  testing::FixedDram dram(16, 50'000);
  FetchNetwork network({.lanes = 1}, &dram);
  network.Submit(FetchClass::kKey, Words(7, 0, 5, 2));
  // Generated in cycles 1 to 10, through the crossbar a cycle later, there 50 later, back 1 later.
  EXPECT_THAT(RunAll(&network), ElementsAre(std::pair(7, 10 + 1 + 50 + 1)));
  EXPECT_EQ(network.transactions(), 10);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(dram.sent[i].request.address, 32 * i);
    EXPECT_EQ(dram.sent[i].time_ps, (2 + i) * 1000);
  }
}

TEST(FetchNetwork, AChannelTakesOneACycle) {
  testing::FixedDram dram(4, 10'000);
  FetchNetwork network({.lanes = 8, .lane_queue = 2}, &dram);
  network.Submit(FetchClass::kKey, Words(1, 0, 16, 1));  // All channels: 4 a cycle.
  EXPECT_THAT(RunAll(&network), ElementsAre(std::pair(1, 1 + 4 + 10 + 1)));
  network.Submit(FetchClass::kKey, Words(2, 0, 16, 1, 128));  // All to channel 0: 1 a cycle.
  EXPECT_THAT(RunAll(&network, 100), ElementsAre(std::pair(2, 100 + 1 + 16 + 10 + 1)));
}

TEST(FetchNetwork, ALaneThatWaitsHoldsUpWhatIsBehindIt) {
  testing::FixedDram dram(2, 10'000);
  FetchNetwork network({.lanes = 1, .lane_queue = 8, .outstanding_per_channel = 1}, &dram);
  // Two to channel 0, then one to channel 1, which is free, but not the lane.
  FetchJob job = Words(1, 0, 2, 1, 64);
  job.parts.push_back(Words(0, 32, 1, 1).parts[0]);
  network.Submit(FetchClass::kKey, job);
  RunAll(&network);
  ASSERT_EQ(dram.sent.size(), 3);
  EXPECT_EQ(dram.sent[0].time_ps, 2'000);
  EXPECT_EQ(dram.sent[1].time_ps, 12'000) << "one under way at a time";
  EXPECT_EQ(dram.sent[2].time_ps, 13'000);
}

TEST(FetchNetwork, ClassesNearerToTheEndGoFirstAndJobsOfAClassKeepTheirOrder) {
  testing::FixedDram dram(1, 1'000);
  FetchNetwork network({.lanes = 1, .lane_queue = 1}, &dram);
  network.Submit(FetchClass::kKey, Words(1, 0, 2, 1));
  network.Submit(FetchClass::kKey, Words(2, 3200, 1, 1));
  network.Submit(FetchClass::kOutput, Words(3, 6400, 1, 1));
  RunAll(&network);
  std::vector<uint64_t> addresses;
  for (const auto& sent : dram.sent) addresses.push_back(sent.request.address);
  EXPECT_THAT(addresses, ElementsAre(6400, 0, 32, 3200));
}

TEST(FetchNetwork, WordsLieAtTheirPositions) {
  testing::FixedDram dram(16, 1'000);
  FetchNetwork network({.lanes = 1}, &dram);
  const std::vector<int32_t> positions = {0, 5, 6, 20, 21, 40, 41, 42};
  FetchJob job = Words(1, 1 << 20, 3, 1, 96);
  job.parts[0].positions = positions;
  job.parts[0].first = 2;
  network.Submit(FetchClass::kKey, job);
  RunAll(&network);
  job.cookie = 2;
  job.parts[0].first = 0;
  job.parts[0].spread = 8;  // 3 of 8 places: 1, 4, 6.
  job.parts[0].write = true;
  network.Submit(FetchClass::kKey, job);
  RunAll(&network, 100);
  std::vector<int64_t> places;
  for (const auto& sent : dram.sent) {
    places.push_back(static_cast<int64_t>(sent.request.address - (1 << 20)) / 96);
  }
  EXPECT_THAT(places, ElementsAre(6, 20, 21, 5, 21, 41));
  EXPECT_FALSE(dram.sent[0].request.write);
  EXPECT_TRUE(dram.sent[3].request.write);
}

TEST(FetchNetwork, WhatIsAskedForIsDeliveredOnce) {
  testing::FixedDram dram(16, 37'000);
  FetchNetwork network({.lanes = 32}, &dram);
  int64_t transactions = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    const auto bursts = static_cast<int32_t>(1 + i % 3);
    const auto count = static_cast<int64_t>(i * 7 % 40);  // Some have nothing to fetch.
    network.Submit(static_cast<FetchClass>(i % 5), Words(i, i << 20, count, bursts));
    transactions += count * bursts;
  }
  EXPECT_EQ(RunAll(&network).size(), 100);
  EXPECT_EQ(network.transactions(), transactions);
  EXPECT_EQ(static_cast<int64_t>(dram.asked.size()), transactions);
  EXPECT_TRUE(network.idle());
  EXPECT_EQ(network.NextTick(5), FetchNetwork::kNever);
}

}  // namespace
}  // namespace thresher
