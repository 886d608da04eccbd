#include "client/load/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace thresher::load {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<double> All(Schedule& schedule) {
  std::vector<double> times;
  while (const auto time = schedule.Next()) times.push_back(absl::ToDoubleSeconds(*time));
  return times;
}

TEST(RateScheduleTest, EvenArrivalsBeginAtOnce) {
  RateSchedule schedule({{absl::Seconds(1), 4, 4}}, std::nullopt);
  EXPECT_THAT(All(schedule), ElementsAre(0, 0.25, 0.5, 0.75));
  EXPECT_FALSE(schedule.Next());
}

TEST(RateScheduleTest, ARateKeepsItsCountOverALongTime) {
  RateSchedule schedule({{absl::Seconds(600), 333.3, 333.3}}, std::nullopt);
  EXPECT_EQ(All(schedule).size(), 199'980u);
}

TEST(RateScheduleTest, ARampArrivesWhereItsAreaIsWhole) {
  // The rate is 2 t, its integral t^2: arrivals at the roots of 0, 1, 2, ...
  RateSchedule schedule({{absl::Seconds(3), 0, 6}}, std::nullopt);
  const auto times = All(schedule);
  ASSERT_EQ(times.size(), 9u);
  for (size_t i = 0; i < times.size(); ++i) EXPECT_NEAR(times[i], std::sqrt(i), 1e-9);
}

TEST(RateScheduleTest, ARampDownEndsAtZero) {
  // 2 (3 - t): the integral is 6 t - t^2.
  RateSchedule schedule({{absl::Seconds(3), 6, 0}}, std::nullopt);
  const auto times = All(schedule);
  ASSERT_EQ(times.size(), 9u);
  for (size_t i = 0; i < times.size(); ++i) EXPECT_NEAR(times[i], 3 - std::sqrt(9.0 - i), 1e-9);
}

TEST(RateScheduleTest, StepsFollowEachOther) {
  RateSchedule schedule(
      {{absl::Seconds(1), 2, 2}, {absl::Seconds(1), 0, 0}, {absl::Seconds(1), 4, 4}}, std::nullopt);
  EXPECT_THAT(All(schedule), ElementsAre(0, 0.5, 2, 2.25, 2.5, 2.75));
}

TEST(RateScheduleTest, PoissonArrivalsAreTheSameForTheSameSeed) {
  const auto times = [](uint64_t seed) {
    RateSchedule schedule({{absl::Seconds(10), 100, 100}}, seed);
    return All(schedule);
  };
  EXPECT_EQ(times(7), times(7));
  EXPECT_NE(times(7), times(8));
}

TEST(RateScheduleTest, PoissonGapsHaveTheMeanAndTheSpreadOfExponentials) {
  RateSchedule schedule({{absl::Seconds(1000), 50, 50}}, 3);
  const auto times = All(schedule);
  const auto n = static_cast<double>(times.size());
  EXPECT_NEAR(n, 50'000, 5 * std::sqrt(50'000.0));
  double squares = 0;
  double above_mean = 0;
  for (size_t i = 1; i < times.size(); ++i) {
    const double gap = times[i] - times[i - 1];
    ASSERT_GE(gap, 0);
    squares += gap * gap;
    above_mean += gap > 0.02 ? 1 : 0;
  }
  EXPECT_NEAR(squares / n, 2 * 0.02 * 0.02, 0.05 * 0.02 * 0.02);  // Twice the mean's square.
  EXPECT_NEAR(above_mean / n, std::exp(-1), 0.01);
}

TEST(RateScheduleTest, PoissonArrivalsFollowARamp) {
  RateSchedule schedule({{absl::Seconds(100), 0, 200}}, 11);
  const auto times = All(schedule);
  // A quarter of the area is in the first half.
  const auto half = std::lower_bound(times.begin(), times.end(), 50.0) - times.begin();
  EXPECT_NEAR(static_cast<double>(half) / static_cast<double>(times.size()), 0.25, 0.02);
}

TEST(ParseTimesTest, SecondsAndUnitsAndComments) {
  const auto times = ParseTimes("# a trace\n0\n0.25\r\n\n  300ms \n2s\n2");
  ASSERT_TRUE(times.ok()) << times.status();
  EXPECT_THAT(*times, ElementsAre(absl::ZeroDuration(), absl::Milliseconds(250),
                                  absl::Milliseconds(300), absl::Seconds(2), absl::Seconds(2)));
}

TEST(ParseTimesTest, MistakesNameTheirLine) {
  const auto error = [](std::string_view text) {
    return std::string(ParseTimes(text).status().message());
  };
  EXPECT_THAT(error("0\n1\nsoon\n"), HasSubstr("line 3: 'soon' is not a time"));
  EXPECT_THAT(error("1\n0.5\n"), HasSubstr("line 2: '0.5' comes before the line above it"));
  EXPECT_THAT(error("-1\n"), HasSubstr("line 1: '-1' is negative"));
  EXPECT_THAT(error("nan\n"), HasSubstr("line 1"));
  EXPECT_THAT(error("1e300\n"), HasSubstr("more than a week"));
  EXPECT_THAT(error("inf"), HasSubstr("line 1"));
  EXPECT_THAT(error("\x1b[31m\xff"), HasSubstr("line 1: '?[31m?'"));
  EXPECT_THAT(error("# nothing\n"), HasSubstr("no time"));
}

}  // namespace
}  // namespace thresher::load
