#include "client/load/early_stopping.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/sparsity/confidence.h"

namespace thresher::load {
namespace {

TEST(EarlyStoppingTest, ProbabilitiesOfAFewCoinsAreThoseByHand) {
  EXPECT_DOUBLE_EQ(ProbabilityOfSoFew(0, 3, 0.5), 1.0 / 8);
  EXPECT_DOUBLE_EQ(ProbabilityOfSoFew(1, 3, 0.5), 4.0 / 8);
  EXPECT_DOUBLE_EQ(ProbabilityOfSoFew(2, 3, 0.5), 7.0 / 8);
  EXPECT_EQ(ProbabilityOfSoFew(3, 3, 0.5), 1);
  EXPECT_EQ(ProbabilityOfSoFew(-1, 3, 0.5), 0);
  EXPECT_NEAR(ProbabilityOfSoFew(1, 10, 0.9), std::pow(0.9, 10) + std::pow(0.9, 9), 1e-14);
}

TEST(EarlyStoppingTest, BothTailsOfManyAreThere) {
  EXPECT_EQ(ProbabilityOfSoFew(500'000, 1'000'000, 0.999), 1);
  EXPECT_LT(ProbabilityOfSoFew(10, 1'000'000, 0.999), 1e-300);
  EXPECT_NEAR(ProbabilityOfSoFew(1000, 1'000'000, 0.999), 0.5, 0.01);
}

TEST(EarlyStoppingTest, NoneLateNeedsTheLogarithmsRatio) {
  // 0.99^459 < 0.01 <= 0.99^458.
  EXPECT_EQ(QueriesNeeded(0, 0.99), 459);
  EXPECT_EQ(QueriesNeeded(0, 0.9), 44);
  EXPECT_EQ(QueriesNeeded(0, 0.5), 7);
  EXPECT_EQ(QueriesNeeded(0, 0.999), 4603);
}

TEST(EarlyStoppingTest, OneLateNeedsWhatLoadGenPublishes) {
  EXPECT_EQ(QueriesNeeded(1, 0.9), 64);
  EXPECT_EQ(QueriesNeeded(1, 0.99), 662);
  EXPECT_FALSE(RankFromTop(63, 0.9));
  EXPECT_EQ(RankFromTop(64, 0.9), 1);
  EXPECT_FALSE(RankFromTop(661, 0.99));
  EXPECT_EQ(RankFromTop(662, 0.99), 1);
}

TEST(EarlyStoppingTest, TooFewQueriesAllowNoneAndFewerNotEvenThat) {
  EXPECT_EQ(MostLate(458, 0.99), -1);
  EXPECT_EQ(MostLate(459, 0.99), 0);
  EXPECT_EQ(MostLate(0, 0.99), -1);
}

TEST(EarlyStoppingTest, ManyQueriesComeNearThePercentile) {
  // LoadGen's fixed size for p99: with 270,336 queries the penalty is below 0.05 %.
  const int64_t late = MostLate(270'336, 0.99);
  EXPECT_LT(late, 2703);
  EXPECT_GT(late, 270'336 * 0.0095);
}

TEST(EarlyStoppingTest, MostLateAndQueriesNeededAreInverses) {
  for (const double p : {0.5, 0.9, 0.95, 0.99, 0.999}) {
    for (const int64_t late : {0, 1, 2, 5, 40, 1000}) {
      const int64_t n = QueriesNeeded(late, p);
      EXPECT_EQ(MostLate(n, p), late) << p << " " << late;
      EXPECT_EQ(MostLate(n - 1, p), late - 1) << p << " " << late;
    }
  }
}

/// The same rule as an interval: the upper bound of Clopper and Pearson is at most 1 - p.
TEST(EarlyStoppingTest, AgreesWithTheExactIntervalOfAProportion) {
  for (const int64_t n : {100, 700, 5000}) {
    for (const double p : {0.9, 0.99}) {
      const int64_t late = MostLate(n, p);
      if (late >= 0) {
        EXPECT_LE(BinomialUpperBound(late, n, kConfidence), 1 - p);
      }
      EXPECT_GT(BinomialUpperBound(late + 1, n, kConfidence), 1 - p);
    }
  }
}

}  // namespace
}  // namespace thresher::load
