#include "client/load/bound.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace thresher::load {
namespace {

TEST(BoundTest, ReadsPercentileAndLimit) {
  const auto bound = Bound::Parse("p99=50ms");
  ASSERT_TRUE(bound.ok()) << bound.status();
  EXPECT_EQ(bound->of, Bound::Of::kLatency);
  EXPECT_DOUBLE_EQ(bound->percentile, 0.99);
  EXPECT_EQ(bound->limit, absl::Milliseconds(50));
  EXPECT_DOUBLE_EQ(Bound::Parse("p99.9=1s")->percentile, 0.999);
  EXPECT_DOUBLE_EQ(Bound::Parse("p999=1s")->percentile, 0.999);
  EXPECT_DOUBLE_EQ(Bound::Parse("latency:p5=1s")->percentile, 0.05);
  EXPECT_EQ(Bound::Parse("first_token:p90=200ms")->of, Bound::Of::kFirstToken);
}

TEST(BoundTest, RefusesWhatIsNone) {
  for (const char* text :
       {"", "p99", "p99=", "p99=50", "p0=1s", "p100.5=1s", "p99.99999=1s", "p=1s", "99=1s",
        "p9x=1s", "p99=-1s", "p99=0s", "p99=inf", "p1e1=1s", "tail:p99=1s"}) {
    EXPECT_EQ(Bound::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(BoundTest, NamesPercentiles) {
  EXPECT_EQ(PercentileName(0.99), "p99");
  EXPECT_EQ(PercentileName(0.999), "p99.9");
  EXPECT_EQ(PercentileName(0.5), "p50");
}

TEST(BoundTest, AShortRunMayKeepABoundWithoutBeingSure) {
  const Bound bound = {.percentile = 0.99, .limit = absl::Seconds(1)};
  EXPECT_TRUE(Judge(bound, 459, 0).kept);
  EXPECT_TRUE(Judge(bound, 459, 0).sure);
  EXPECT_TRUE(Judge(bound, 458, 0).kept);
  EXPECT_FALSE(Judge(bound, 458, 0).sure);
  EXPECT_EQ(Judge(bound, 458, 0).queries_needed, 459);
  EXPECT_TRUE(Judge(bound, 500, 5).kept);
  EXPECT_FALSE(Judge(bound, 500, 5).sure);
  EXPECT_FALSE(Judge(bound, 500, 6).kept);
  EXPECT_FALSE(Judge(bound, 0, 0).kept);
}

}  // namespace
}  // namespace thresher::load
