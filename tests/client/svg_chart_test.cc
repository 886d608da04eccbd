#include "client/cli/svg_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace thresher::cli {
namespace {

using ::testing::DoubleEq;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(TicksTest, LinearOnesAreRound) {
  EXPECT_THAT(LinearTicks(0, 10, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(LinearTicks(0, 0.23, 4), ElementsAre(0, DoubleEq(0.1), DoubleEq(0.2)));
  EXPECT_FALSE(std::signbit(LinearTicks(-1e-12, 5, 5)[0]));
  EXPECT_THAT(LinearTicks(3, 3, 5), ElementsAre(3));
}

TEST(TicksTest, LogarithmicOnesArePowersAndWhereFewTheirTwosAndFives) {
  EXPECT_THAT(LogTicks(0.5, 30), ElementsAre(DoubleNear(0.5, 1e-12), 1, 2, 5, 10, 20));
  EXPECT_EQ(LogTicks(1e-6, 1e3).size(), 10u);
}

TEST(ChartTest, NamesAreTextAndNoMarkup) {
  EXPECT_EQ(EscapeHtml("<b a=\"1\">&\x1b[0m"), "&lt;b a=&quot;1&quot;&gt;&amp; [0m");
  const Chart chart = {.title = "<script>",
                       .series = {{.name = "a<b", .points = {{1, 2}, {2, 3}}}}};
  const std::string svg = DrawChart(chart);
  EXPECT_THAT(svg, Not(HasSubstr("<script>")));
  EXPECT_THAT(svg, HasSubstr("a&lt;b"));
}

TEST(ChartTest, PointsThatCantBeDrawnAreLeftOut) {
  const Chart chart = {
      .title = "t",
      .y = {.log = true},
      .series = {{.name = "s", .points = {{1, 0}, {2, 10}, {3, NAN}, {4, INFINITY}, {5, 20}}}}};
  const std::string svg = DrawChart(chart);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  size_t dots = 0;
  for (size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) {
    ++dots;
  }
  EXPECT_EQ(dots, 2u);
}

TEST(ChartTest, OnePointAndNoneAreCharted) {
  const Chart one = {.title = "one", .series = {{.name = "s", .points = {{0, 0}}}}};
  EXPECT_THAT(DrawChart(one), Not(HasSubstr("nan")));
  EXPECT_THAT(DrawChart({.title = "none"}), HasSubstr("nothing was answered"));
}

TEST(ChartTest, GivenTicksAreWithinTheFrame) {
  const Chart chart = {.title = "t",
                       .y = {.ticks = {{0.5, "half"}, {1, "all"}}},
                       .series = {{.name = "s", .points = {{1, 0.7}, {2, 0.8}}}}};
  const std::string svg = DrawChart(chart);
  // The frame of the plot is from 34 to 272; half is its foot.
  EXPECT_THAT(svg, HasSubstr("y2=\"272.0\"/><text x=\"68\" y=\"276.0\""));
}

TEST(BarsTest, PartsFollowEachOther) {
  const std::string svg =
      DrawBars({.title = "t", .parts = {"a", "b"}, .rows = {{"row", {0.001, 0.003}}}});
  EXPECT_THAT(svg, HasSubstr("<title>a: 1.00 ms</title>"));
  EXPECT_THAT(svg, HasSubstr(">4.00 ms</text>"));
  EXPECT_EQ(DrawBars({.title = "t", .parts = {"a"}, .rows = {{"row", {0}}}}), "");
}

}  // namespace
}  // namespace thresher::cli
