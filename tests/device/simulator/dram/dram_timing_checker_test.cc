// The checker itself: what it must let pass, and what it must not.
#include "tests/device/simulator/dram/dram_timing_checker.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace thresher::testing {
namespace {

using Kind = DramCommand::Kind;

DramCommand Command(Kind kind, int64_t clock, int32_t bank = 0, int32_t row = 0,
                    int32_t pseudo_channel = 0) {
  return {.kind = kind, .pseudo_channel = pseudo_channel, .bank = bank, .row = row, .clock = clock};
}

/// What the checker has to say about these commands at 2 Gb/s.
std::string Breaches(const std::vector<DramCommand>& commands,
                     DramTimingChecker::Refresh refresh = DramTimingChecker::Refresh::kAllBank) {
  ::testing::TestPartResultArray results;
  {
    ::testing::ScopedFakeTestPartResultReporter reporter(
        ::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
    DramTimingChecker checker(TableOf(2000), refresh);
    for (const DramCommand& command : commands) checker.Observe(command);
  }
  std::string all;
  for (int i = 0; i < results.size(); ++i) all += results.GetTestPartResult(i).message();
  return all;
}

void ExpectBreach(const std::string& rule, const std::vector<DramCommand>& commands) {
  EXPECT_NE(Breaches(commands).find(rule), std::string::npos) << Breaches(commands);
}

TEST(DramTimingCheckerTest, TheEarliestTimesPass) {
  EXPECT_EQ(
      Breaches({Command(Kind::kActivate, 0), Command(Kind::kRead, 15), Command(Kind::kRead, 19),
                Command(Kind::kPrecharge, 35), Command(Kind::kActivate, 48),
                Command(Kind::kWrite, 61), Command(Kind::kRead, 76), Command(Kind::kPrecharge, 84),
                Command(Kind::kRefresh, 98), Command(Kind::kActivate, 447)}),
      "");
}

TEST(DramTimingCheckerTest, AClockTooEarlyDoesNot) {
  const auto open = Command(Kind::kActivate, 0);
  ExpectBreach("nRCD", {open, Command(Kind::kRead, 14)});
  ExpectBreach("nRCD", {open, Command(Kind::kWrite, 12)});
  ExpectBreach("nRAS", {open, Command(Kind::kPrecharge, 34)});
  ExpectBreach("nRP", {open, Command(Kind::kPrecharge, 40), Command(Kind::kActivate, 52)});
  ExpectBreach("nRC", {open, Command(Kind::kPrecharge, 35), Command(Kind::kActivate, 47)});
  ExpectBreach("nRTP", {open, Command(Kind::kRead, 40), Command(Kind::kPrecharge, 44)});
  ExpectBreach("nWR", {open, Command(Kind::kWrite, 40), Command(Kind::kPrecharge, 62)});
  ExpectBreach("nCCD", {open, Command(Kind::kRead, 40), Command(Kind::kRead, 43)});
  ExpectBreach("read to write", {open, Command(Kind::kRead, 40), Command(Kind::kWrite, 52)});
  ExpectBreach("nWTR", {open, Command(Kind::kWrite, 40), Command(Kind::kRead, 54)});
  ExpectBreach("nRRD", {open, Command(Kind::kActivate, 3, 4)});
  ExpectBreach("its bus is taken", {open, Command(Kind::kActivate, 1, 0, 0, 1)});
  ExpectBreach("nRFC", {Command(Kind::kRefresh, 0), Command(Kind::kActivate, 348)});
  ExpectBreach("a row is open", {open, Command(Kind::kRefresh, 100)});
  ExpectBreach("a row is open", {open, Command(Kind::kActivate, 100, 0, 5)});
  ExpectBreach("row 0 is open", {open, Command(Kind::kRead, 40, 0, 5)});
  ExpectBreach("no row is open", {Command(Kind::kRead, 40)});
}

TEST(DramTimingCheckerTest, FiveActivationsNeedTheirWindow) {
  std::vector<DramCommand> commands;
  for (int i = 0; i < 5; ++i) commands.push_back(Command(Kind::kActivate, i * 4, i * 3));
  EXPECT_EQ(Breaches(commands), "");  // 16 clocks: nFAW never binds at 2 Gb/s.
  Hbm2Table table = TableOf(2000);
  table.nFAW = 20;
  ::testing::TestPartResultArray results;
  {
    ::testing::ScopedFakeTestPartResultReporter reporter(
        ::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
    DramTimingChecker checker(table);
    for (const DramCommand& command : commands) checker.Observe(command);
  }
  EXPECT_EQ(results.size(), 2);  // The breach, and that there was one.
}

TEST(DramTimingCheckerTest, SingleBanksAreRefreshedInTurn) {
  const auto refresh = DramTimingChecker::Refresh::kSingleBank;
  EXPECT_EQ(Breaches({Command(Kind::kRefreshBank, 0, 0), Command(Kind::kRefreshBank, 8, 1),
                      Command(Kind::kActivate, 15, 2)},
                     refresh),
            "");
  EXPECT_NE(Breaches({Command(Kind::kRefreshBank, 0, 1)}, refresh), "");
  EXPECT_NE(Breaches({Command(Kind::kRefreshBank, 0, 0), Command(Kind::kActivate, 6, 2)}, refresh),
            "");
  EXPECT_NE(Breaches({Command(Kind::kRefreshBank, 0, 0), Command(Kind::kActivate, 158)}, refresh),
            "");
}

}  // namespace
}  // namespace thresher::testing
