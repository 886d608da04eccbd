#include "backend/device/row_top_k.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "backend/device/top_k.h"

namespace thresher {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<int32_t> Chosen(const std::vector<float>& scores, int64_t k) {
  RowTopK top_k;
  std::vector<uint64_t> bits(scores.size() / 64 + 1, ~uint64_t{0});
  top_k(scores, k, bits.data());
  std::vector<int32_t> chosen;
  for (size_t i = 0; i < scores.size(); ++i) {
    if ((bits[i / 64] >> (i % 64)) & 1) chosen.push_back(static_cast<int32_t>(i));
  }
  if (!scores.empty() && scores.size() % 64 != 0) {
    EXPECT_EQ(bits[scores.size() / 64] >> (scores.size() % 64), 0u) << "bits past the end";
  }
  return chosen;
}

std::vector<int32_t> Expected(const std::vector<float>& scores, int64_t k) {
  TopK<float> top_k;
  const auto kept = top_k(scores, k);
  return {kept.begin(), kept.end()};
}

TEST(RowTopK, ByHand) {
  EXPECT_EQ(Chosen({3, 1, 4, 1, 5}, 2), (std::vector<int32_t>{2, 4}));
  EXPECT_EQ(Chosen({3, 1, 4, 1, 5}, 0), (std::vector<int32_t>{}));
  EXPECT_EQ(Chosen({3, 1, 4, 1, 5}, 9), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(Chosen({}, 3), (std::vector<int32_t>{}));
}

TEST(RowTopK, TheFirstEqualsAreTaken) {
  EXPECT_EQ(Chosen({2, 7, 2, 2, 9, 2}, 4), (std::vector<int32_t>{0, 1, 2, 4}));
  EXPECT_EQ(Chosen(std::vector<float>(70, 1.0f), 3), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(Chosen({0.0f, -0.0f, 0.0f}, 2), (std::vector<int32_t>{0, 1}));
}

TEST(RowTopK, NanRanksBelowEverything) {
  EXPECT_EQ(Chosen({kNan, -kInfinity, kInfinity, -kNan}, 2), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(Chosen({kNan, -kInfinity, kInfinity, -kNan}, 3), (std::vector<int32_t>{0, 1, 2}));
}

TEST(RowTopK, AgreesWithTheScalarRule) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 3000; ++round) {
    std::vector<float> scores(1 + random() % 300);
    const int kind = round % 4;
    for (float& score : scores) {
      score = normal(random);
      if (kind == 1) score = std::round(score);
      if (kind == 2) score = std::exp(20 * score);
      if (kind == 3 && random() % 8 == 0) score = random() % 2 == 0 ? kNan : -kInfinity;
    }
    const auto k = static_cast<int64_t>(random() % (scores.size() + 2));
    ASSERT_EQ(Chosen(scores, k), Expected(scores, k)) << round;
  }
}

TEST(FirstLargest, IsTheFirstOfEqualsAndNeverNan) {
  EXPECT_EQ(FirstLargest(std::vector<float>{1, 3, 2, 3}), 1);
  EXPECT_EQ(FirstLargest(std::vector<float>{kNan, -kInfinity, kNan}), 1);
  EXPECT_EQ(FirstLargest(std::vector<float>{kNan, kNan}), 0);
  EXPECT_EQ(FirstLargest(std::vector<float>{}), 0);
  std::vector<float> many(100, -2.0f);
  many[70] = -1.0f;
  EXPECT_EQ(FirstLargest(many), 70);
}

TEST(SumOfExp, IsOfAllScores) {
  const std::vector<float> scores = {0.0f, std::log(2.0f), std::log(3.0f)};
  EXPECT_NEAR(SumOfExp(scores, std::log(3.0f)), 2.0, 1e-6);
  EXPECT_NEAR(SumOfExp(std::vector<float>(100, 1.0f), 1.0f), 100.0, 1e-6);
  EXPECT_TRUE(std::isnan(SumOfExp(std::vector<float>{1.0f, kNan}, 5.0f)));
}

}  // namespace
}  // namespace thresher
