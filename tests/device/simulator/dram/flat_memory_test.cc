#include "backend/device/simulator/dram/flat_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend/tensor/status.h"
#include "tests/device/simulator/dram/dram_traffic.h"

namespace thresher {
namespace {

using ::testing::HasSubstr;

v1::DramSpec Spec(double bytes_per_second) {
  v1::DramSpec spec;
  spec.mutable_flat()->set_bytes_per_second(bytes_per_second);
  return spec;
}

TEST(FlatMemoryTest, MovesBytesAtItsRateInOrder) {
  v1::DramSpec spec = Spec(400.0 * (1 << 30));
  spec.mutable_flat()->set_picojoules_per_bit(3.9);
  const auto dram = *CreateDram(spec);
  const auto result = testing::Drive(*dram, 100'000, [](int64_t i) {
    return DramRequest{.address = static_cast<uint64_t>(i) * 64};
  });
  ASSERT_EQ(result.completions.size(), 100'000u);
  for (uint64_t i = 0; i < 100'000; ++i) ASSERT_EQ(result.completions[i].tag, i);
  EXPECT_NEAR(static_cast<double>(result.end_ps), 100'000 * 64 / (400.0 * (1 << 30)) * 1e12, 1);
  EXPECT_DOUBLE_EQ(dram->energy(), 100'000.0 * 512 * 3.9e-12);
  EXPECT_EQ(dram->counts().reads(), 100'000);
}

TEST(FlatMemoryTest, LatencyIsPaidOnceWhenRequestsOverlap) {
  v1::DramSpec spec = Spec(64e9);  // A burst each nanosecond.
  spec.mutable_flat()->set_latency_nanoseconds(100);
  const auto dram = *CreateDram(spec);
  const auto result = testing::Drive(*dram, 10, [](int64_t) { return DramRequest{}; });
  EXPECT_EQ(result.end_ps, 110'000);
}

TEST(FlatMemoryTest, AFullQueueTakesNothingUntilSomethingCompletes) {
  v1::DramSpec spec = Spec(64e9);
  spec.mutable_flat()->set_queue_depth(2);
  const auto dram = *CreateDram(spec);
  EXPECT_TRUE(dram->TrySend({.tag = 1}, 0));
  EXPECT_TRUE(dram->TrySend({.tag = 2}, 0));
  EXPECT_FALSE(dram->TrySend({.tag = 3}, 999));
  EXPECT_EQ(dram->NextEvent(), 1000);
  EXPECT_TRUE(dram->TrySend({.tag = 3}, 1000));
  std::vector<DramCompletion> completions;
  dram->AdvanceTo(10'000, &completions);
  ASSERT_EQ(completions.size(), 3u);
  EXPECT_EQ(completions[2].time_ps, 3000);
  EXPECT_EQ(dram->NextEvent(), Dram::kNever);
}

TEST(FlatMemoryTest, SpecificationsThatCantWorkAreRefusedByField) {
  const auto refusal = [](auto change) {
    v1::DramSpec spec = Spec(1e9);
    change(*spec.mutable_flat());
    const auto dram = CreateDram(spec);
    return dram.ok() ? std::string() : Message(dram.status());
  };
  EXPECT_THAT(refusal([](auto& s) { s.set_bytes_per_second(0); }),
              HasSubstr("dram.flat.bytes_per_second"));
  EXPECT_THAT(refusal([](auto& s) { s.set_bytes_per_second(std::nan("")); }),
              HasSubstr("dram.flat.bytes_per_second"));
  EXPECT_THAT(refusal([](auto& s) { s.set_picojoules_per_bit(-1); }),
              HasSubstr("dram.flat.picojoules_per_bit"));
  EXPECT_THAT(refusal([](auto& s) { s.set_burst_bytes(48); }), HasSubstr("dram.flat.burst_bytes"));
  EXPECT_THAT(refusal([](auto& s) { s.set_latency_nanoseconds(-1); }),
              HasSubstr("dram.flat.latency_nanoseconds"));
  EXPECT_THAT(refusal([](auto& s) { s.set_queue_depth(-1); }), HasSubstr("dram.flat.queue_depth"));
  EXPECT_THAT(Message(CreateDram({}).status()), HasSubstr("neither"));
}

}  // namespace
}  // namespace thresher
