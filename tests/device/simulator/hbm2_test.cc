// HBM2 against numbers worked out by hand from its timing table, with every command watched.
#include "backend/device/simulator/hbm2.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "backend/tensor/status.h"
#include "tests/device/simulator/dram_timing_checker.h"
#include "tests/device/simulator/dram_traffic.h"

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

struct Recorder final : DramObserver {
  void Observe(const DramCommand& command) override { commands.push_back(command); }
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

}  // namespace
}  // namespace thresher
