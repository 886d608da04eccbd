#include "client/load/generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace thresher::load {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Generator Late(absl::Duration lateness) {
  Generator generator;
  for (int i = 0; i < 10; ++i) generator.lateness.Add(lateness);
  return generator;
}

LatencyHistogram Slow(absl::Duration latency) {
  LatencyHistogram histogram;
  histogram.Add(latency);
  return histogram;
}

TEST(GeneratorTest, APunctualOneIsNoLimit) {
  EXPECT_THAT(LimitsOf(Late(absl::Microseconds(80)), Slow(absl::Microseconds(300))), IsEmpty());
  EXPECT_THAT(LimitsOf(Late(absl::Milliseconds(5)), Slow(absl::Milliseconds(100))), IsEmpty());
}

TEST(GeneratorTest, LateSendsThatMakeTheLatencyAreOne) {
  EXPECT_THAT(LimitsOf(Late(absl::Milliseconds(5)), Slow(absl::Milliseconds(20))),
              ElementsAre(HasSubstr("5.00 ms, against 20.00 ms")));
}

TEST(GeneratorTest, SoAreAFullCpuABusyThreadAndDroppedRequests) {
  Generator generator = Late(absl::ZeroDuration());
  generator.cpus = 2;
  generator.process_cpu = 1.7;
  generator.thread_cpu = 0.8;
  EXPECT_THAT(LimitsOf(generator, Slow(absl::Seconds(1))), IsEmpty());
  generator.process_cpu = 1.9;
  generator.thread_cpu = 0.95;
  generator.dropped = 3;
  EXPECT_THAT(LimitsOf(generator, Slow(absl::Seconds(1))),
              ElementsAre(HasSubstr("thread"), HasSubstr("1.90 of its 2 CPUs"),
                          HasSubstr("3 requests were not sent")));
}

}  // namespace
}  // namespace thresher::load
