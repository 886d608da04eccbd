#include "client/load/peak_search.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

namespace thresher::load {
namespace {

std::vector<double> Search(PeakSearch& search, const std::function<bool(double)>& keeps) {
  std::vector<double> rates;
  while (const auto rate = search.Next()) {
    rates.push_back(*rate);
    search.Report(keeps(*rate));
    EXPECT_LT(rates.size(), 100u);
    if (rates.size() >= 100) break;
  }
  return rates;
}

TEST(PeakSearchTest, DoublesThenHalvesTheGap) {
  PeakSearch search({.start = 100, .precision = 0.5});
  const auto rates = Search(search, [](double rate) { return rate <= 500; });
  ASSERT_EQ(rates.size(), 5u);
  EXPECT_EQ((std::vector<double>(rates.begin(), rates.begin() + 4)),
            (std::vector<double>{100, 200, 400, 800}));
  EXPECT_NEAR(rates[4], 565.69, 0.01);
  EXPECT_EQ(search.peak(), 400);
  EXPECT_EQ(search.broken(), rates[4]);
}

/// The waiting time of a queue with random arrivals grows as 1 / (capacity - rate).
TEST(PeakSearchTest, FindsThePeakOfALatencyCurve) {
  const double capacity = 1234;
  const double limit = 0.050;
  const double truth = capacity - 1 / limit;
  for (const double start : {1.0, 700.0, 100'000.0}) {
    PeakSearch search({.start = start, .precision = 0.01});
    Search(search, [&](double rate) { return rate < capacity && 1 / (capacity - rate) <= limit; });
    ASSERT_TRUE(search.peak());
    EXPECT_LE(*search.peak(), truth);
    EXPECT_GE(*search.peak(), truth / 1.01);
  }
}

TEST(PeakSearchTest, EndsWhereNothingKeepsAndWhereAllDoes) {
  PeakSearch none({.start = 8, .least = 1});
  EXPECT_EQ(Search(none, [](double) { return false; }), (std::vector<double>{8, 4, 2, 1}));
  EXPECT_FALSE(none.peak());
  PeakSearch all({.start = 8, .limit = 20});
  EXPECT_EQ(Search(all, [](double) { return true; }), (std::vector<double>{8, 16, 20}));
  EXPECT_EQ(all.peak(), 20);
  EXPECT_FALSE(all.broken());
}

}  // namespace
}  // namespace thresher::load
