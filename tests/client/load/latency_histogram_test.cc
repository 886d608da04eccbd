#include "client/load/latency_histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "client/load/random.h"

namespace thresher::load {
namespace {

TEST(LatencyHistogramTest, EmptyIsZero) {
  const LatencyHistogram histogram;
  EXPECT_EQ(histogram.count(), 0);
  EXPECT_EQ(histogram.mean(), absl::ZeroDuration());
  EXPECT_EQ(histogram.Percentile(0.99), absl::ZeroDuration());
}

TEST(LatencyHistogramTest, SmallTimesAreExact) {
  LatencyHistogram histogram;
  for (int i = 1; i <= 10; ++i) histogram.Add(absl::Nanoseconds(i * 10));
  // The element with index floor(p n), from 0, as LoadGen takes it.
  EXPECT_EQ(histogram.Percentile(0), absl::Nanoseconds(10));
  EXPECT_EQ(histogram.Percentile(0.5), absl::Nanoseconds(60));
  EXPECT_EQ(histogram.Percentile(0.9), absl::Nanoseconds(100));
  EXPECT_EQ(histogram.Percentile(0.89), absl::Nanoseconds(90));
  EXPECT_EQ(histogram.Percentile(1), absl::Nanoseconds(100));
  EXPECT_EQ(histogram.mean(), absl::Nanoseconds(55));
  EXPECT_EQ(histogram.AtRank(1), absl::Nanoseconds(10));
  EXPECT_EQ(histogram.AtRank(99), absl::Nanoseconds(100));
}

TEST(LatencyHistogramTest, PercentilesOfAnySizeAreAtMostAHundredthTooLarge) {
  Random random(5);
  LatencyHistogram histogram;
  std::vector<absl::Duration> times;
  for (int i = 0; i < 5000; ++i) {
    // From a nanosecond to an hour.
    times.push_back(absl::Nanoseconds(std::floor(std::exp(random.Uniform() * 28.9))));
    histogram.Add(times.back());
  }
  std::sort(times.begin(), times.end());
  for (const double p : {0.0, 0.1, 0.5, 0.9, 0.99, 0.999}) {
    const absl::Duration exact = times[static_cast<size_t>(p * 5000)];
    EXPECT_GE(histogram.Percentile(p), exact);
    EXPECT_LE(histogram.Percentile(p), exact * 1.008);
  }
  EXPECT_EQ(histogram.max(), times.back());
}

TEST(LatencyHistogramTest, StrangeTimesStayInside) {
  LatencyHistogram histogram;
  histogram.Add(-absl::Seconds(1));
  histogram.Add(absl::Hours(1000));
  EXPECT_EQ(histogram.AtRank(1), absl::ZeroDuration());
  EXPECT_EQ(histogram.max(), absl::Hours(1000));
  EXPECT_EQ(histogram.Percentile(0.9), absl::Hours(1000));
}

TEST(LatencyHistogramTest, TheSumOfTwoIsTheHistogramOfBoth) {
  LatencyHistogram one, two, both;
  for (int i = 0; i < 100; ++i) {
    (i % 2 == 0 ? one : two).Add(absl::Microseconds(i * i));
    both.Add(absl::Microseconds(i * i));
  }
  one.Add(two);
  EXPECT_EQ(one.count(), both.count());
  EXPECT_EQ(one.sum(), both.sum());
  for (int rank = 1; rank <= 100; ++rank) EXPECT_EQ(one.AtRank(rank), both.AtRank(rank));
}

TEST(LatencyHistogramTest, ForEachCountsUpToAll) {
  LatencyHistogram histogram;
  for (int i = 0; i < 50; ++i) histogram.Add(absl::Milliseconds(i));
  int64_t last = 0;
  absl::Duration top = -absl::Seconds(1);
  histogram.ForEach([&](absl::Duration time, int64_t below) {
    EXPECT_GT(below, last);
    EXPECT_GT(time, top);
    last = below;
    top = time;
  });
  EXPECT_EQ(last, 50);
  EXPECT_EQ(top, absl::Milliseconds(49));
}

}  // namespace
}  // namespace thresher::load
