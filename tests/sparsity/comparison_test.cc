#include "backend/sparsity/comparison.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace thresher {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(KlDivergence, OfKnownDistributions) {
  // (1/2, 1/2) against (1/4, 3/4): 1/2 ln 2 + 1/2 ln(2/3).
  const std::vector<float> p = {0, 0};
  const std::vector<float> q = {0, std::log(3.0f)};
  EXPECT_NEAR(KlDivergence(p, q), 0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3.0), 1e-7);
  EXPECT_EQ(KlDivergence(p, p), 0.0);
  EXPECT_EQ(KlDivergence({}, {}), 0.0);
}

TEST(KlDivergence, DoesNotDependOnAConstantAndDoesNotOverflow) {
  const std::vector<float> p = {1000, 1001};
  const std::vector<float> q = {-1000, -999};
  EXPECT_NEAR(KlDivergence(p, q), 0.0, 1e-9);
}

TEST(KlDivergence, OfTheImpossible) {
  const std::vector<float> sure = {0, -kInf};
  const std::vector<float> even = {0, 0};
  EXPECT_NEAR(KlDivergence(sure, even), std::log(2.0), 1e-12);
  EXPECT_EQ(KlDivergence(even, sure), std::numeric_limits<double>::infinity());
}

TEST(CosineSimilarity, OfKnownVectors) {
  const std::vector<float> a = {3, 4};
  EXPECT_DOUBLE_EQ(CosineSimilarity(a, std::vector<float>{6, 8}), 1.0);
  EXPECT_DOUBLE_EQ(CosineSimilarity(a, std::vector<float>{-4, 3}), 0.0);
  EXPECT_DOUBLE_EQ(CosineSimilarity(a, std::vector<float>{4, 3}), 0.96);
  EXPECT_EQ(CosineSimilarity(std::vector<float>{0, 0}, std::vector<float>{0, 0}), 1.0);
  EXPECT_EQ(CosineSimilarity(a, std::vector<float>{0, 0}), 0.0);
}

TEST(Correlation, OfKnownValues) {
  const std::vector<double> a = {1, 2, 3, 4, 5};
  const std::vector<double> b = {2, 1, 4, 3, 5};
  EXPECT_NEAR(PearsonCorrelation(a, b), 0.8, 1e-12);
  EXPECT_NEAR(SpearmanCorrelation(a, b), 0.8, 1e-12);
  const std::vector<double> cubes = {1, 8, 27, 64, 125};
  EXPECT_LT(PearsonCorrelation(a, cubes), 0.95);
  EXPECT_NEAR(SpearmanCorrelation(a, cubes), 1.0, 1e-12);
}

TEST(Correlation, TiesShareTheirRank) {
  // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
  const std::vector<double> a = {10, 20, 20, 30};
  const std::vector<double> b = {1, 2, 3, 4};
  EXPECT_NEAR(SpearmanCorrelation(a, b), 4.5 / std::sqrt(4.5 * 5.0), 1e-12);
}

TEST(Correlation, IsUndefinedWithoutSpread) {
  const std::vector<double> flat = {1, 1, 1};
  const std::vector<double> rising = {1, 2, 3};
  const std::vector<double> broken = {1, std::nan(""), 3};
  EXPECT_TRUE(std::isnan(PearsonCorrelation(flat, rising)));
  EXPECT_TRUE(std::isnan(SpearmanCorrelation(rising, flat)));
  EXPECT_TRUE(std::isnan(PearsonCorrelation({}, {})));
  EXPECT_TRUE(std::isnan(SpearmanCorrelation(rising, broken)));
}

}  // namespace
}  // namespace thresher
