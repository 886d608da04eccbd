#include "backend/sparsity/schedule.h"

#include <gmock/gmock.h>

#include <numeric>

#include "backend/device/top_k.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pointwise;

double Mean(const Schedule& schedule) {
  return std::accumulate(schedule.begin(), schedule.end(), 0.0) /
         static_cast<double>(schedule.size());
}

TEST(Schedule, UntouchedLayersAreRoundedUp) {
  EXPECT_EQ(UntouchedByTokens(6), 1);
  EXPECT_EQ(UntouchedByTokens(12), 2);
  EXPECT_EQ(UntouchedByTokens(20), 3);
  EXPECT_EQ(UntouchedByTokens(1), 1);
  EXPECT_EQ(UntouchedByHeads(6), 2);
  EXPECT_EQ(UntouchedByHeads(10), 3);
  EXPECT_EQ(UntouchedByHeads(12), 4);
}

TEST(Schedule, ByFinalFallsInALineToTheLastLayer) {
  // Six layers, one untouched: steps of 0.3 / 5.
  EXPECT_THAT(ScheduleByFinal(6, 1, 0.7, ScheduleKind::kRamp),
              Pointwise(DoubleNear(1e-12), {1.0, 0.94, 0.88, 0.82, 0.76, 0.7}));
  EXPECT_THAT(ScheduleByFinal(4, 1, 0.25, ScheduleKind::kFlat), ElementsAre(1, 0.25, 0.25, 0.25));
  EXPECT_THAT(ScheduleByFinal(1, 1, 0.2, ScheduleKind::kRamp), ElementsAre(1));
}

TEST(Schedule, ByFinalGivesTheCountsOfTheTrainedModels) {
  // golden.json of sst2-mini: 48 and 128 tokens at final keep ratio 0.4 and 0.7.
  const auto counts = [](int64_t tokens, double final) {
    std::vector<int64_t> out;
    for (const double share : ScheduleByFinal(6, 1, final, ScheduleKind::kRamp)) {
      out.push_back(KeepCount(tokens, share));
    }
    return out;
  };
  EXPECT_THAT(counts(48, 0.4), ElementsAre(48, 43, 37, 31, 25, 20));
  EXPECT_THAT(counts(128, 0.7), ElementsAre(128, 121, 113, 105, 98, 90));
  EXPECT_THAT(counts(2, 0.4), ElementsAre(2, 2, 2, 2, 2, 1));
}

TEST(Schedule, ByMeanIsByFinalWhereThatReaches) {
  // Six layers: the line to 0.5 has shares 1, .9, .8, .7, .6, .5.
  EXPECT_EQ(ScheduleByMean(6, 0.75, ScheduleKind::kRamp).value(),
            ScheduleByFinal(6, 1, 0.5, ScheduleKind::kRamp));
  EXPECT_THAT(ScheduleByMean(6, 1.0, ScheduleKind::kRamp).value(), ElementsAre(1, 1, 1, 1, 1, 1));
}

TEST(Schedule, ByLowMeanFallsFromNineToOne) {
  // Twelve layers, two untouched: 0.5 leaves a mean of 0.4 to the other ten.
  const Schedule schedule = ScheduleByMean(12, 0.5, ScheduleKind::kRamp).value();
  EXPECT_NEAR(schedule[1], 1.0, 1e-12);
  EXPECT_NEAR(schedule[2], 0.72, 1e-12);
  EXPECT_NEAR(schedule[11], 0.08, 1e-12);
}

TEST(Schedule, ByMeanHasThatMeanAndNeverRises) {
  for (const ScheduleKind kind : {ScheduleKind::kRamp, ScheduleKind::kFlat}) {
    for (int32_t layers = 1; layers <= 48; ++layers) {
      const double least = static_cast<double>(UntouchedByTokens(layers)) / layers;
      for (double mean = least + 0.01; mean <= 1.0; mean += 0.013) {
        const auto schedule = ScheduleByMean(layers, mean, kind);
        ASSERT_TRUE(schedule.ok()) << layers << " layers, mean " << mean;
        EXPECT_NEAR(Mean(*schedule), mean, 1e-9);
        EXPECT_EQ(schedule->front(), 1.0);
        for (size_t l = 1; l < schedule->size(); ++l) {
          EXPECT_LE((*schedule)[l], (*schedule)[l - 1]);
          EXPECT_GT((*schedule)[l], 0.0);
        }
      }
    }
  }
}

TEST(Schedule, ByMeanIsMonotoneInTheMean) {
  for (double mean = 0.2; mean < 0.99; mean += 0.01) {
    const Schedule low = ScheduleByMean(12, mean, ScheduleKind::kRamp).value();
    const Schedule high = ScheduleByMean(12, mean + 0.01, ScheduleKind::kRamp).value();
    for (int l = 0; l < 12; ++l) EXPECT_LE(low[l], high[l] + 1e-12) << mean << " layer " << l;
  }
}

TEST(Schedule, ByMeanRefusesWhatTheUntouchedLayersForbid) {
  for (const ScheduleKind kind : {ScheduleKind::kRamp, ScheduleKind::kFlat}) {
    const auto schedule = ScheduleByMean(12, 0.1, kind);
    EXPECT_EQ(schedule.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(schedule.status()), HasSubstr("0.1667"));
  }
  EXPECT_FALSE(ScheduleByMean(1, 0.9, ScheduleKind::kRamp).ok());
}

TEST(Schedule, KeepFloorRoundsDownButLeavesOne) {
  EXPECT_EQ(KeepFloor(12, 0.75), 9);
  EXPECT_EQ(KeepFloor(12, 0.74), 8);
  EXPECT_EQ(KeepFloor(10, 0.7), 7);  // 0.7 is a little below 7 / 10.
  EXPECT_EQ(KeepFloor(6, 0.1), 1);
  EXPECT_EQ(KeepFloor(6, 1.0), 6);
}

}  // namespace
}  // namespace thresher
