#include "backend/scheduler/cost_model.h"

#include <gtest/gtest.h>

#include <random>

namespace thresher {
namespace {

const absl::Time kStart = absl::UnixEpoch();

/// Batches of 10, 20, ... that take 2 ms + 0.5 ms for each unit of cost.
CostModel Line(int samples) {
  CostModel model;
  for (int i = 1; i <= samples; ++i) {
    model.Add(10 * i, absl::Milliseconds(2 + 5 * i), kStart);
  }
  return model;
}

double Milliseconds(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

TEST(CostModelTest, KnowsNothingBeforeEnoughSamples) {
  EXPECT_EQ(Line(CostModel::kMinSamples - 1).AtLeast(1000, kStart), absl::ZeroDuration());
  EXPECT_GT(Line(CostModel::kMinSamples).AtLeast(1000, kStart), absl::ZeroDuration());
}

TEST(CostModelTest, FindsTheFixedPartAndTheSlopeWhereThereIsNoNoise) {
  const CostModel model = Line(10);
  EXPECT_NEAR(Milliseconds(model.AtLeast(1, kStart)), 2.5, 1e-6);
  EXPECT_NEAR(Milliseconds(model.AtLeast(50, kStart)), 27, 1e-6);
  EXPECT_NEAR(Milliseconds(model.AtLeast(1000, kStart)), 502, 1e-6);
  EXPECT_EQ(model.AtLeast(0, kStart), absl::ZeroDuration());
}

TEST(CostModelTest, EqualCostsSayNothingOfTheSlope) {
  CostModel model;
  for (int i = 0; i < 10; ++i) model.Add(100, absl::Milliseconds(10), kStart);
  EXPECT_NEAR(Milliseconds(model.AtLeast(100, kStart)), 10, 1e-6);
  // Perhaps all of it is fixed, perhaps none.
  EXPECT_NEAR(Milliseconds(model.AtLeast(5000, kStart)), 10, 1e-6);
  EXPECT_NEAR(Milliseconds(model.AtLeast(10, kStart)), 1, 1e-6);
}

TEST(CostModelTest, TimesThatFallWithCostAreTakenAsEqual) {
  CostModel model;
  for (int i = 1; i <= 10; ++i) model.Add(10 * i, absl::Milliseconds(200 - i), kStart);
  EXPECT_GE(model.AtLeast(1000, kStart), model.AtLeast(100, kStart));
  EXPECT_LE(model.AtLeast(1000, kStart), absl::Milliseconds(200));
}

TEST(CostModelTest, AnOutlierLowersTheBoundRatherThanRaisingIt) {
  CostModel model = Line(10);
  const absl::Duration before = model.AtLeast(50, kStart);
  model.Add(50, absl::Seconds(30), kStart);
  EXPECT_LT(model.AtLeast(50, kStart), before);
}

TEST(CostModelTest, FewBatchesTakeLessThanTheBound) {
  std::mt19937 random(1);
  std::uniform_int_distribution<int64_t> costs(10, 4000);
  std::lognormal_distribution<double> noise(0, 0.2);
  const auto run = [&](int64_t cost) {
    return absl::Milliseconds((2 + 0.1 * cost) * noise(random));
  };
  CostModel model;
  int early = 0;
  for (int i = 0; i < 5000; ++i) {
    const int64_t cost = costs(random);
    const absl::Duration compute = run(cost);
    early += compute < model.AtLeast(cost, kStart);
    model.Add(cost, compute, kStart);
  }
  EXPECT_LT(early, 5000 * 0.05);
  // And yet it is worth something.
  EXPECT_GT(model.AtLeast(4000, kStart), absl::Milliseconds(150));
}

TEST(CostModelTest, FollowsAChangeOfSpeedWithinAWindow) {
  CostModel model = Line(CostModel::kWindow);
  for (int i = 1; i <= CostModel::kWindow; ++i) model.Add(10 * i, absl::Milliseconds(i), kStart);
  EXPECT_NEAR(Milliseconds(model.AtLeast(500, kStart)), 50, 1e-6);
}

TEST(CostModelTest, ForgetsWhatItHasNotSeenForLong) {
  CostModel model = Line(10);
  const absl::Time last = kStart + CostModel::kMaxAge;
  EXPECT_GT(model.AtLeast(50, last), absl::ZeroDuration());
  const absl::Time later = last + absl::Milliseconds(1);
  EXPECT_EQ(model.AtLeast(50, later), absl::ZeroDuration());
  model.Add(50, absl::Milliseconds(27), later);  // The first of a new set of samples.
  EXPECT_EQ(model.AtLeast(50, later), absl::ZeroDuration());
}

TEST(CostModelTest, TheFirstBatchTellsARate) {
  CostModel model;
  EXPECT_EQ(model.Likely(100), absl::ZeroDuration());
  model.Add(10, absl::Milliseconds(20), kStart);
  EXPECT_NEAR(Milliseconds(model.Likely(100)), 200, 1e-6);
  EXPECT_EQ(model.Likely(0), absl::ZeroDuration());
  // Large batches count for more: 20 + 100 ms for 10 + 90, of which the first has faded a little.
  model.Add(90, absl::Milliseconds(100), kStart);
  EXPECT_NEAR(Milliseconds(model.Likely(100)), 120, 2);
}

TEST(CostModelTest, LikelyIsTheLineWhereItsSlopeIsSure) {
  const CostModel model = Line(10);
  EXPECT_NEAR(Milliseconds(model.Likely(50)), 27, 1e-6);
  EXPECT_NEAR(Milliseconds(model.Likely(1000)), 502, 1e-6);
}

TEST(CostModelTest, LikelyIsTheRateWhereBatchesAreAlike) {
  std::mt19937 random(1);
  std::lognormal_distribution<double> noise(0, 0.3);
  CostModel model;
  for (int i = 0; i < 64; ++i) {
    model.Add(100 + i % 3, absl::Milliseconds(50 * noise(random)), kStart);
  }
  // A slope from such noise might be anything, a line without one bound nothing.
  EXPECT_NEAR(Milliseconds(model.Likely(1000)), 500, 150);
}

TEST(CostModelTest, TheRateFollowsAChangeOfSpeedWithinAFewBatches) {
  CostModel model;
  for (int i = 0; i < 64; ++i) model.Add(100, absl::Milliseconds(10), kStart);
  for (int i = 0; i < 16; ++i) model.Add(100, absl::Milliseconds(30), kStart);
  EXPECT_GT(model.Likely(100), absl::Milliseconds(27));
}

TEST(CostModelTest, TheRateIsKeptUntilANewOneIsKnown) {
  CostModel model = Line(10);
  const absl::Time later = kStart + absl::Hours(1);
  EXPECT_NEAR(Milliseconds(model.Likely(50)), 27, 1e-6);
  model.Add(50, absl::Milliseconds(100), later);
  EXPECT_NEAR(Milliseconds(model.Likely(50)), 100, 1e-6);
}

}  // namespace
}  // namespace thresher
