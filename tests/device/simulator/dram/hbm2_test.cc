// HBM2 against numbers worked out by hand from its timing table, with every command watched.
#include "backend/device/simulator/dram/hbm2.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/tensor/status.h"
#include "tests/device/simulator/dram/dram_timing_checker.h"
#include "tests/device/simulator/dram/dram_traffic.h"

namespace thresher {
namespace {

using testing::DramTimingChecker;
using testing::Drive;
using ::testing::HasSubstr;
using testing::TableOf;
using testing::TrafficResult;

constexpr int kBurst = 32;

v1::Hbm2Spec Spec(int megabits_per_second = 2000, int channels = 1) {
  v1::Hbm2Spec spec;
  spec.set_megabits_per_second(megabits_per_second);
  spec.set_channels(channels);
  return spec;
}

std::unique_ptr<Dram> Create(const v1::Hbm2Spec& spec) {
  absl::StatusOr<std::unique_ptr<Dram>> dram = CreateHbm2(spec);
  EXPECT_TRUE(dram.ok()) << Message(dram.status());
  return *std::move(dram);
}

DramTimingChecker::Refresh RefreshOf(const v1::Hbm2Spec& spec) {
  switch (spec.refresh()) {
    case v1::Hbm2Spec::SINGLE_BANK:
      return DramTimingChecker::Refresh::kSingleBank;
    case v1::Hbm2Spec::NONE:
      return DramTimingChecker::Refresh::kNone;
    default:
      return DramTimingChecker::Refresh::kAllBank;
  }
}

/// A memory under watch.
struct Watched {
  explicit Watched(const v1::Hbm2Spec& spec)
      : checker(TableOf(spec.megabits_per_second()), RefreshOf(spec)), dram(Create(spec)) {
    dram->set_observer(&checker);
  }
  Dram* operator->() { return dram.get(); }
  Dram& operator*() { return *dram; }

  DramTimingChecker checker;
  std::unique_ptr<Dram> dram;
};

/// The address of (row, bank, pseudo-channel, column) in a memory of one channel whose address map
/// is "RoBaBgPcCo".
constexpr char kPlainMap[] = "RoBaBgPcCoCh";
uint64_t At(uint64_t row, uint64_t bank, uint64_t pseudo_channel, uint64_t column) {
  return ((((row * 16 + bank) * 2 + pseudo_channel) * 32) + column) * kBurst;
}

struct Recorder final : DramTimingChecker {
  Recorder() : DramTimingChecker(TableOf(2000)) {}
  void Observe(const DramCommand& command) override {
    DramTimingChecker::Observe(command);
    commands.push_back(command);
  }
  std::vector<DramCommand> commands;
};

TEST(Hbm2Test, AReadOfAClosedBankTakes28NsFromItsActivation) {
  v1::Hbm2Spec spec = Spec();
  spec.set_address_map(kPlainMap);
  const auto dram = Create(spec);
  Recorder recorder;
  dram->set_observer(&recorder);
  const auto result =
      Drive(*dram, 1, [](int64_t) { return DramRequest{.address = At(5, 0, 0, 0)}; });
  ASSERT_EQ(recorder.commands.size(), 2u);
  EXPECT_EQ(recorder.commands[0].kind, DramCommand::Kind::kActivate);
  EXPECT_EQ(recorder.commands[0].clock, 0);
  EXPECT_EQ(recorder.commands[1].kind, DramCommand::Kind::kRead);
  // The activation counts from its second clock on the bus, 1; the first data come 28 clocks later
  // (nRCD + nCL = 14 + 14) and take 2.
  EXPECT_EQ(result.end_ps, (1 + 28 + 2) * 1000);
}

TEST(Hbm2Test, AReadOnARowConflictTakes42Ns) {
  v1::Hbm2Spec spec = Spec();
  spec.set_address_map(kPlainMap);
  Watched dram(spec);
  Drive(*dram, 1, [](int64_t) { return DramRequest{.address = At(5, 0, 0, 0)}; });
  // Long after: the first clock of the activation is within nRP, so that nRP + nRCD + nCL = 42 come
  // before the first data, and 2 with them.
  const auto result = Drive(
      *dram, 1, [](int64_t) { return DramRequest{.address = At(6, 0, 0, 0)}; }, 1, 1'000'000);
  EXPECT_EQ(result.end_ps - 1'000'000, (42 + 2) * 1000);
  EXPECT_EQ(dram->counts().row_conflicts(), 1);
  EXPECT_EQ(dram->counts().row_misses(), 1);
}

TEST(Hbm2Test, AReadOfAnOpenRowTakesItsLatencyAlone) {
  Watched dram(Spec());
  Drive(*dram, 1, [](int64_t) { return DramRequest{}; });
  const auto result = Drive(
      *dram, 1, [](int64_t) { return DramRequest{}; }, 1, 1'000'000);
  EXPECT_EQ(result.end_ps - 1'000'000, (14 + 2) * 1000);
  EXPECT_EQ(dram->counts().row_hits(), 1);
}

TEST(Hbm2Test, AWriteIsTakenWhenItsDataHaveBeenMoved) {
  Watched dram(Spec());
  const auto result = Drive(*dram, 1, [](int64_t) { return DramRequest{.write = true}; });
  EXPECT_EQ(result.end_ps, (1 + 12 + 5 + 2) * 1000);
  EXPECT_EQ(dram->counts().writes(), 1);
}

TEST(Hbm2Test, PeaksAreTheDataRatesOwn) {
  EXPECT_NEAR(Create(Spec(1600, 8))->peak_bandwidth(), 204.8e9, 1);
  EXPECT_NEAR(Create(Spec(2000, 8))->peak_bandwidth(), 256e9, 1);
  EXPECT_NEAR(Create(Spec(2400, 8))->peak_bandwidth(), 307.2e9, 0.2e9);  // 833 ps, not 833.3.
  EXPECT_NEAR(Create(Spec(2000, 16))->peak_bandwidth(), 512e9, 1);       // SpAtten's.
}

class DataRate : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(All, DataRate, ::testing::Values(1600, 2000, 2400));

TEST_P(DataRate, AStreamReachesThePeakBetweenRefreshes) {
  v1::Hbm2Spec spec = Spec(GetParam(), 2);
  spec.set_refresh(v1::Hbm2Spec::NONE);
  Watched dram(spec);
  const auto result = Drive(*dram, 400'000, [](int64_t i) {
    return DramRequest{.address = static_cast<uint64_t>(i) * kBurst};
  });
  ASSERT_EQ(result.completions.size(), 400'000u);
  EXPECT_GE(result.GigabytesPerSecond(kBurst, 1000), 0.998 * dram->peak_bandwidth() * 1e-9);
}

TEST_P(DataRate, AStreamIsLimitedByRefreshAsTheFormulaSays) {
  Watched dram(Spec(GetParam(), 2));
  const auto result = Drive(*dram, 2'000'000, [](int64_t i) {
    return DramRequest{.address = static_cast<uint64_t>(i) * kBurst};
  });
  const testing::Hbm2Table table = TableOf(GetParam());
  const double share =
      1.0 - static_cast<double>(table.nRTP + table.nRP + table.nRFC + table.nRCDRD) / table.nREFI;
  EXPECT_NEAR(result.GigabytesPerSecond(kBurst) / (dram->peak_bandwidth() * 1e-9), share, 0.005);
  dram.checker.CheckRefreshes(static_cast<int64_t>(result.end_ps / (table.clock_ns * 1000)));
}

// A bank group is a nibble's upper half: banks in turn over groups.
int BankInTurn(int64_t i) { return static_cast<int>((i % 4) * 4 + (i / 4) % 4); }

/// Reads of one burst from ever different rows, the banks in turn.
struct RandomRows {
  explicit RandomRows(int pseudo_channels) : pseudo_channels(pseudo_channels) {}
  DramRequest operator()(int64_t i) {
    const int64_t bank = BankInTurn(i / pseudo_channels);
    return {.address = At(random() % 65536, bank, i % pseudo_channels, random() % 32)};
  }
  int pseudo_channels;
  std::mt19937_64 random{7};
};

v1::Hbm2Spec RandomSpec(v1::Hbm2Spec::PagePolicy policy) {
  v1::Hbm2Spec spec = Spec();
  spec.set_address_map(kPlainMap);
  spec.set_refresh(v1::Hbm2Spec::NONE);
  spec.set_page_policy(policy);
  return spec;
}

TEST(Hbm2Test, RandomReadsOfOnePseudoChannelAreBoundByActivations) {
  for (const auto policy : {v1::Hbm2Spec::OPEN, v1::Hbm2Spec::CLOSED}) {
    Watched dram(RandomSpec(policy));
    const auto result = Drive(*dram, 100'000, RandomRows(1));
    // One activation each nRRD = 4 ns: 8.00 GB/s.
    EXPECT_NEAR(result.GigabytesPerSecond(kBurst, 1000), 8.00, 0.01);
  }
}

TEST(Hbm2Test, RefreshTakesItsShareOfRandomReads) {
  v1::Hbm2Spec spec = RandomSpec(v1::Hbm2Spec::CLOSED);
  spec.set_refresh(v1::Hbm2Spec::ALL_BANK);
  Watched dram(spec);
  const auto result = Drive(*dram, 200'000, RandomRows(1));
  EXPECT_NEAR(result.GigabytesPerSecond(kBurst, 1000), 7.21, 0.06);
}

TEST(Hbm2Test, ExplicitPrechargesShareTheRowCommandBus) {
  Watched dram(RandomSpec(v1::Hbm2Spec::OPEN));
  const auto result = Drive(*dram, 100'000, RandomRows(2));
  // Two clocks to activate and one to precharge: a read each 3 ns.
  EXPECT_NEAR(result.GigabytesPerSecond(kBurst, 1000), 10.67, 0.02);
}

TEST(Hbm2Test, AutoPrechargeLosesNothingOnTheRowCommandBus) {
  Watched dram(RandomSpec(v1::Hbm2Spec::CLOSED));
  const auto result = Drive(*dram, 100'000, RandomRows(2));
  EXPECT_NEAR(result.GigabytesPerSecond(kBurst, 1000), 16.0, 0.02);
}

TEST(Hbm2Test, AStreamWithinABankGroupReachesHalfThePeak) {
  v1::Hbm2Spec spec = RandomSpec(v1::Hbm2Spec::OPEN);
  Watched dram(spec);
  const auto result =
      Drive(*dram, 100'000, [](int64_t i) { return DramRequest{.address = At(0, 0, 0, i % 32)}; });
  EXPECT_NEAR(result.GigabytesPerSecond(kBurst, 1000), 8.00, 0.01);  // nCCDL.
}

TEST(Hbm2Test, SixteenOutstandingRequestsFollowLittlesLaw) {
  // Hits: 16 x 32 B over 16 ns is the whole channel.
  v1::Hbm2Spec spec = Spec();
  spec.set_refresh(v1::Hbm2Spec::NONE);
  spec.set_queue_depth(16);
  Watched hits(spec);
  const auto stream = Drive(*hits, 100'000, [](int64_t i) {
    return DramRequest{.address = static_cast<uint64_t>(i % 8) * kBurst};
  });
  EXPECT_NEAR(stream.GigabytesPerSecond(kBurst, 1000), 32.0, 0.1);

  // One at a time, since nothing else then adds to the latency: 16 of them overlapped would take
  // 16 times as many bytes in the same time.
  spec = RandomSpec(v1::Hbm2Spec::CLOSED);
  Watched closed(spec);
  const auto misses = Drive(*closed, 1, RandomRows(1), 1);
  EXPECT_NEAR(16 * kBurst / (misses.end_ps / 1000.0 - 1 - 2), 18.3, 0.05);  // Over 28 ns.
  spec.set_page_policy(v1::Hbm2Spec::OPEN);
  Watched open(spec);
  const auto same_bank = [](int64_t i) {
    return DramRequest{.address = At(static_cast<uint64_t>(i), 0, 0, 0)};
  };
  Drive(*open, 1, same_bank);
  const auto conflict = Drive(
      *open, 1, [](int64_t) { return DramRequest{.address = At(9, 0, 0, 0)}; }, 1, 1'000'000);
  EXPECT_NEAR(16 * kBurst / (conflict.end_ps / 1000.0 - 1000), 11.6, 0.05);  // Over 44 ns.
}

// ---- Any traffic ----

/// Random bursts of reads and writes with locality, so that hits, conflicts and turns all occur.
std::vector<DramRequest> RandomTraffic(uint32_t seed, int count) {
  std::mt19937 random(seed);
  std::vector<DramRequest> requests;
  uint64_t address = 0;
  bool write = false;
  for (int i = 0; i < count; ++i) {
    const uint32_t dice = random() % 16;
    if (dice == 0) address = (uint64_t{random()} << 16 ^ random()) * kBurst;
    if (dice == 1) address += (random() % 64) * 1024;
    if (dice == 2) write = random() % 2 == 0;
    address += kBurst;
    requests.push_back({.address = address, .write = write});
  }
  return requests;
}

v1::Hbm2Spec RandomSpecOf(uint32_t seed) {
  std::mt19937 random(seed * 7919 + 1);
  v1::Hbm2Spec spec = Spec(1600 + 400 * static_cast<int>(random() % 3), 1 << (random() % 3));
  const char* maps[] = {"", "RoBaRaCoCh", "RoCoBaBgPcCh", "Ro8 Ch Ba Co2 Bg Ro Pc Co3"};
  spec.set_address_map(maps[random() % 4]);
  spec.set_page_policy(random() % 2 == 0 ? v1::Hbm2Spec::OPEN : v1::Hbm2Spec::CLOSED);
  const v1::Hbm2Spec::Refresh refreshes[] = {v1::Hbm2Spec::ALL_BANK, v1::Hbm2Spec::SINGLE_BANK,
                                             v1::Hbm2Spec::NONE};
  spec.set_refresh(refreshes[random() % 3]);
  const int depths[] = {1, 5, 16, 64, 200};
  spec.set_queue_depth(depths[random() % 5]);
  const int patiences[] = {0, 40, 300};
  spec.set_patience(patiences[random() % 3]);
  return spec;
}

TEST(Hbm2Test, AnyTrafficKeepsTheTimingsAndIsServedOnce) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    const v1::Hbm2Spec spec = RandomSpecOf(seed);
    const std::vector<DramRequest> traffic = RandomTraffic(seed, 5000);
    Watched dram(spec);
    const auto result = Drive(*dram, 5000, [&](int64_t i) { return traffic[i % 5000]; });
    ASSERT_EQ(result.completions.size(), 5000u);
    std::vector<int> times(5000);
    int64_t last_ps = 0;
    for (const DramCompletion& completion : result.completions) {
      ++times[completion.tag];
      EXPECT_GE(completion.time_ps, last_ps);
      last_ps = completion.time_ps;
    }
    EXPECT_EQ(std::count(times.begin(), times.end(), 1), 5000);

    const v1::DramCounts& counts = dram->counts();
    const auto writes = std::count_if(traffic.begin(), traffic.end(),
                                      [](const DramRequest& request) { return request.write; });
    EXPECT_EQ(counts.writes(), writes);
    EXPECT_EQ(counts.reads(), 5000 - writes);
    EXPECT_EQ(counts.row_hits() + counts.row_misses() + counts.row_conflicts(), 5000);
    int64_t by_channel = 0;
    for (const int64_t requests : counts.requests_by_channel()) by_channel += requests;
    EXPECT_EQ(by_channel, 5000);
    // Each row that was opened was closed, or is open now.
    EXPECT_GE(counts.activations(), counts.precharges());
    EXPECT_LE(counts.activations() - counts.precharges(), spec.channels() * 2 * 16);
    dram.checker.CheckRefreshes(static_cast<int64_t>(
        result.end_ps / (TableOf(spec.megabits_per_second()).clock_ns * 1000)));
  }
}

TEST(Hbm2Test, TheSameTrafficTakesTheSameTimeAlwaysAndHoweverOftenOneAsks) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    const v1::Hbm2Spec spec = RandomSpecOf(seed);
    const std::vector<DramRequest> traffic = RandomTraffic(seed, 2000);
    // Requests at given times, whatever completes; those that find the queue full are left out.
    const auto run = [&](Dram& dram, int64_t asking_ps) {
      std::vector<DramCompletion> completions;
      int64_t now_ps = 0;
      for (int i = 0; i < 2000; ++i) {
        const int64_t next_ps = int64_t{i} * 3700;
        for (; asking_ps > 0 && now_ps < next_ps; now_ps += asking_ps) {
          dram.AdvanceTo(now_ps, &completions);
        }
        DramRequest request = traffic[i];
        request.tag = static_cast<uint64_t>(i);
        dram.TrySend(request, next_ps);
      }
      dram.AdvanceTo(1'000'000'000, &completions);
      EXPECT_EQ(dram.NextEvent(), Dram::kNever);
      std::vector<std::pair<int64_t, uint64_t>> result;
      for (const DramCompletion& c : completions) result.emplace_back(c.time_ps, c.tag);
      std::ranges::sort(result);
      return result;
    };
    const auto dram = Create(spec);
    const auto first = run(*dram, 0);
    const std::string counts = dram->counts().SerializeAsString();
    dram->Reset();
    EXPECT_EQ(run(*dram, 0), first);
    EXPECT_EQ(dram->counts().SerializeAsString(), counts);
    dram->Reset();
    EXPECT_EQ(run(*dram, 400), first);
    EXPECT_EQ(run(*Create(spec), 77'777), first);
    // Nor does watching change anything: idle refreshes are then not skipped.
    Watched watched(spec);
    EXPECT_EQ(run(*watched, 0), first);
    EXPECT_EQ(watched->counts().SerializeAsString(), counts);
  }
}

TEST(Hbm2Test, WhatWentBeforeMakesNoDifferenceToAnIdleMemory) {
  // All its rows are closed. Times and orders are kept in 16 bits, from a base that moves along.
  v1::Hbm2Spec spec = Spec();
  spec.set_page_policy(v1::Hbm2Spec::CLOSED);
  spec.set_refresh(v1::Hbm2Spec::NONE);
  spec.set_patience(300);
  const std::vector<DramRequest> traffic = RandomTraffic(7, 2000);
  const auto run = [&](int64_t before, int64_t idle_ps) {
    const auto dram = Create(spec);
    int64_t begin_ps = 0;
    if (before > 0) {
      begin_ps = Drive(*dram, before, [](int64_t i) {
                   return DramRequest{.address = static_cast<uint64_t>(i) * kBurst};
                 }).end_ps;
    }
    begin_ps += 1'000'000 + idle_ps;
    const auto result = Drive(
        *dram, 2000, [&](int64_t i) { return traffic[i % 2000]; },
        std::numeric_limits<int64_t>::max(), begin_ps);
    std::vector<std::pair<int64_t, uint64_t>> completions;
    for (const DramCompletion& c : result.completions) {
      completions.emplace_back(c.time_ps - begin_ps, c.tag);
    }
    return completions;
  };
  const auto first = run(0, 0);
  EXPECT_EQ(first.size(), 2000u);
  for (const int64_t before : {0, 32'000, 32'700, 33'000}) {
    EXPECT_EQ(run(before, 0), first) << before;
  }
  for (const int64_t idle_ps : {int64_t{7'000'000}, int64_t{3'000'000'000'000'000}}) {
    EXPECT_EQ(run(0, idle_ps), first) << idle_ps;
  }
}

TEST(Hbm2Test, AWatchSeesWhatIsIssuedFromThenOn) {
  const auto dram = Create(Spec(2000, 2));
  for (uint64_t i = 0; i < 100; ++i) dram->TrySend({.address = i * kBurst}, 0);
  std::vector<DramCompletion> completions;
  dram->AdvanceTo(20'000, &completions);
  struct : DramObserver {
    void Observe(const DramCommand& command) override { clocks.push_back(command.clock); }
    std::vector<int64_t> clocks;
  } watch;
  dram->set_observer(&watch);
  dram->AdvanceTo(40'000, &completions);
  dram->set_observer(nullptr);
  dram->AdvanceTo(1'000'000, &completions);
  ASSERT_FALSE(watch.clocks.empty());
  for (const int64_t clock : watch.clocks) {
    EXPECT_GE(clock, 20);
    EXPECT_LT(clock, 40);
  }
}

TEST(Hbm2Test, AFullQueueTakesNothing) {
  v1::Hbm2Spec spec = Spec(2000, 2);
  spec.set_queue_depth(3);
  Watched dram(spec);
  // Channel 0 has even bursts.
  for (uint64_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(dram->TrySend({.address = 2 * i * kBurst, .tag = i}, 0));
  }
  EXPECT_FALSE(dram->TrySend({.address = 6 * kBurst, .tag = 3}, 0));
  EXPECT_TRUE(dram->TrySend({.address = kBurst, .tag = 4}, 0)) << "the other channel has room";
  // Room is made by the first completion.
  EXPECT_FALSE(dram->TrySend({.address = 6 * kBurst, .tag = 3}, 30'999));
  EXPECT_TRUE(dram->TrySend({.address = 6 * kBurst, .tag = 3}, 31'000));
  std::vector<DramCompletion> completions;
  dram->AdvanceTo(1'000'000, &completions);
  EXPECT_EQ(completions.size(), 5u);
}

TEST(Hbm2Test, PatienceBoundsTheWaitForARowThatOthersKeepOpen) {
  // One request for another row of a bank whose open row is read for ever.
  const auto wait = [](int patience) {
    v1::Hbm2Spec spec = RandomSpec(v1::Hbm2Spec::OPEN);
    spec.set_patience(patience);
    Watched dram(spec);
    const auto result = Drive(*dram, 20'000, [](int64_t i) {
      return DramRequest{.address = At(i == 100 ? 1 : 0, 0, 0, i % 32)};
    });
    for (const DramCompletion& completion : result.completions) {
      if (completion.tag == 100) return completion.time_ps / 1000;
    }
    return int64_t{0};
  };
  EXPECT_GT(wait(1'000'000), 70'000);  // Last of all.
  EXPECT_LT(wait(1000), 100 * 4 + 1000 + 200);
}

TEST(Hbm2Test, PatienceBoundsTheWaitOfAWriteAmongReads) {
  v1::Hbm2Spec spec = RandomSpec(v1::Hbm2Spec::OPEN);
  spec.set_patience(500);
  Watched dram(spec);
  const auto result = Drive(*dram, 20'000, [](int64_t i) {
    return DramRequest{.address = At(0, BankInTurn(i), 0, i % 32), .write = i == 100};
  });
  for (const DramCompletion& completion : result.completions) {
    if (completion.tag == 100) {
      EXPECT_LT(completion.time_ps / 1000, 100 * 4 + 500 + 200);
    }
  }
}

TEST(Hbm2Test, IdleTimeIsRefreshedAndCostsNothing) {
  v1::Hbm2Spec spec = Spec(2000, 16);
  const auto dram = Create(spec);
  std::vector<DramCompletion> completions;
  dram->AdvanceTo(int64_t{3600} * 1'000'000'000'000, &completions);  // An hour.
  EXPECT_EQ(dram->counts().refreshes(), int64_t{3600} * 1'000'000'000 / 3900 * 32);
  EXPECT_EQ(dram->NextEvent(), Dram::kNever);
  EXPECT_EQ(dram->energy(), 0);
}

TEST(Hbm2Test, EnergyIsOfActivationsAndBits) {
  v1::Hbm2Spec spec = Spec();
  spec.set_refresh(v1::Hbm2Spec::NONE);
  const auto stream = [](int64_t i) {
    return DramRequest{.address = static_cast<uint64_t>(i) * kBurst};
  };
  Watched dram(spec);
  Drive(*dram, 32 * 8, stream);  // All of a row of each of 8 banks.
  EXPECT_EQ(dram->counts().activations(), 8);
  EXPECT_DOUBLE_EQ(dram->energy(), (8 * 909 + 8 * 8192 * 2.71) * 1e-12);
  // 3.9 pJ a bit is quoted for rows read in part; whole ones cost 0.11 + 2.71.
  EXPECT_NEAR(dram->energy() / (8 * 8192) * 1e12, 2.82, 0.005);

  spec.set_picojoules_per_activation(0);
  spec.set_picojoules_per_bit(1);
  spec.set_phy_picojoules_per_bit(1.1);
  Watched other(spec);
  Drive(*other, 10, stream);
  EXPECT_DOUBLE_EQ(other->energy(), 10 * 256 * 2.1e-12);
}

TEST(Hbm2Test, SpAttensChannelIsTheFourBitsAboveABurst) {
  v1::Hbm2Spec spec = Spec(2000, 16);
  for (const char* map : {"", "RoBaRaCoCh"}) {
    spec.set_address_map(map);
    const auto dram = Create(spec);
    for (uint64_t address = 0; address < 4096; address += kBurst) {
      EXPECT_EQ(dram->ChannelOf(address), static_cast<int>((address >> 5) & 15));
    }
  }
}

TEST(Hbm2Test, AddressMapsAreReadFromTheHighestBitDown) {
  v1::Hbm2Spec spec = Spec();
  spec.set_address_map("Ro Ba1 Co3 Ba1 Bg Pc Co2");
  const auto dram = Create(spec);
  Recorder recorder;
  dram->set_observer(&recorder);
  // Above the 5 bits of a burst: Co2 (5, 6), Pc (7), Bg (8, 9), Ba1 (10), Co3 (11..13), Ba1 (14).
  Drive(*dram, 1, [](int64_t) {
    return DramRequest{.address = (uint64_t{9} << 15) | (1 << 14) | (2 << 8) | (1 << 7)};
  });
  ASSERT_FALSE(recorder.commands.empty());
  EXPECT_EQ(recorder.commands[0].row, 9);
  EXPECT_EQ(recorder.commands[0].bank, 2 * 4 + 2);
  EXPECT_EQ(recorder.commands[0].pseudo_channel, 1);
}

// ---- Specifications that can't work ----

std::string Refusal(const v1::Hbm2Spec& spec) {
  const auto dram = CreateHbm2(spec);
  if (dram.ok()) return "";
  EXPECT_EQ(dram.status().code(), absl::StatusCode::kInvalidArgument);
  return Message(dram.status());
}

TEST(Hbm2Test, SpecificationsThatCantWorkAreRefusedByField) {
  const auto with = [](auto change) {
    v1::Hbm2Spec spec = Spec();
    change(spec);
    return Refusal(spec);
  };
  EXPECT_THAT(with([](auto& s) { s.set_megabits_per_second(0); }),
              HasSubstr("dram.hbm2.megabits_per_second"));
  EXPECT_THAT(with([](auto& s) { s.set_megabits_per_second(1700); }), HasSubstr("1700"));
  for (const int channels : {-1, 0, 3, 1 << 20}) {
    EXPECT_THAT(with([&](auto& s) { s.set_channels(channels); }), HasSubstr("dram.hbm2.channels"));
  }
  for (const int density : {-8, 3, 32}) {
    EXPECT_THAT(with([&](auto& s) { s.set_density_gigabits(density); }),
                HasSubstr("dram.hbm2.density_gigabits"));
  }
  for (const int depth : {-1, 1 << 20}) {
    EXPECT_THAT(with([&](auto& s) { s.set_queue_depth(depth); }),
                HasSubstr("dram.hbm2.queue_depth"));
  }
  EXPECT_THAT(with([](auto& s) { s.set_patience(-5); }), HasSubstr("dram.hbm2.patience"));
  EXPECT_THAT(with([](auto& s) { s.set_page_policy(static_cast<v1::Hbm2Spec::PagePolicy>(9)); }),
              HasSubstr("dram.hbm2.page_policy"));
  EXPECT_THAT(with([](auto& s) { s.set_refresh(static_cast<v1::Hbm2Spec::Refresh>(9)); }),
              HasSubstr("dram.hbm2.refresh"));
  EXPECT_THAT(with([](auto& s) { s.mutable_timing()->set_faw(-1); }),
              HasSubstr("dram.hbm2.timing.faw"));
  EXPECT_THAT(with([](auto& s) { s.mutable_timing()->set_faw(5000); }),
              HasSubstr("dram.hbm2.timing.faw"));
  EXPECT_THAT(with([](auto& s) { s.mutable_timing()->set_refi(2'000'000); }),
              HasSubstr("dram.hbm2.timing.refi"));
  EXPECT_THAT(with([](auto& s) { s.mutable_timing()->set_refi(400); }),
              HasSubstr("dram.hbm2.timing.refi"));
  EXPECT_THAT(with([](auto& s) { s.mutable_timing()->set_ras(100); }),
              HasSubstr("dram.hbm2.timing.rc"));
  EXPECT_THAT(with([](auto& s) { s.mutable_timing()->set_cwl(100); }),
              HasSubstr("dram.hbm2.timing.cwl"));
  EXPECT_THAT(with([](auto& s) { s.mutable_timing()->set_ccds(9); }), HasSubstr("ccds"));
  EXPECT_THAT(with([](auto& s) { s.set_picojoules_per_bit(-1); }),
              HasSubstr("dram.hbm2.picojoules_per_bit"));
  EXPECT_THAT(with([](auto& s) { s.set_picojoules_per_activation(std::nan("")); }),
              HasSubstr("dram.hbm2.picojoules_per_activation"));
  for (const char* map :
       {"Ro", "RoBaBgPcCoChXx", "RoBaBgPcCo", "RoBaBgPcCo4", "RoRoBaBgPcCo", "Ro99BaBgPcCo",
        "Ro0BaBgPcCo", "Ro Ba1 Pc Co Ba1", "R", "BaBgPcCo99999999999999999999Ro",
        "Ro BaBgPcCoCoCoCoCo1Co1Co1Co1Co1Co1"}) {
    v1::Hbm2Spec spec = Spec(2000, 2);
    spec.set_address_map(map);
    EXPECT_THAT(Refusal(spec), HasSubstr("dram.hbm2.address_map")) << map;
  }
  v1::Hbm2Spec spec = Spec();
  spec.set_address_map(std::string(100'000, ' '));
  EXPECT_THAT(Refusal(spec), HasSubstr("dram.hbm2.address_map"));
}

}  // namespace
}  // namespace thresher
