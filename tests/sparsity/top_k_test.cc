#include "backend/device/top_k.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<int32_t> Keep(const std::vector<float>& scores, int64_t k,
                          const std::vector<int32_t>& always = {}) {
  TopK<float> top_k;
  const auto kept = top_k(scores, k, always);
  return {kept.begin(), kept.end()};
}

TEST(TopK, KeepsTheLargestInOriginalOrder) {
  EXPECT_THAT(Keep({3, 1, 4, 1, 5, 9, 2, 6}, 3), ElementsAre(4, 5, 7));
}

TEST(TopK, OfEqualsAtTheThresholdKeepsTheFirst) {
  // 9 and 7 are above; of the three 5s the first two stay.
  EXPECT_THAT(Keep({5, 1, 9, 5, 7, 5}, 4), ElementsAre(0, 2, 3, 4));
}

TEST(TopK, AllEqualKeepsTheFirst) {
  EXPECT_THAT(Keep({2, 2, 2, 2}, 2), ElementsAre(0, 1));
  EXPECT_THAT(Keep({0.0f, -0.0f, 0.0f}, 2), ElementsAre(0, 1));
}

TEST(TopK, NoneAndAll) {
  EXPECT_THAT(Keep({1, 2, 3}, 0), IsEmpty());
  EXPECT_THAT(Keep({1, 2, 3}, -5), IsEmpty());
  EXPECT_THAT(Keep({1, 2, 3}, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(Keep({1, 2, 3}, 30), ElementsAre(0, 1, 2));
  EXPECT_THAT(Keep({}, 2), IsEmpty());
}

TEST(TopK, NanRanksBelowMinusInfinity) {
  EXPECT_THAT(Keep({kNan, -kInf, 1, kNan, kInf}, 3), ElementsAre(1, 2, 4));
  // Once NaN must be kept, it is the first.
  EXPECT_THAT(Keep({kNan, -kInf, 1, kNan, kInf}, 4), ElementsAre(0, 1, 2, 4));
  EXPECT_THAT(Keep({kNan, kNan, kNan}, 2), ElementsAre(0, 1));
}

TEST(TopK, ProtectedRowsStayAndCountInsideK) {
  EXPECT_THAT(Keep({0, 9, 8, 7}, 2, {0}), ElementsAre(0, 1));
  // Even against infinities, and though NaN themselves.
  EXPECT_THAT(Keep({kNan, kInf, kInf}, 1, {0}), ElementsAre(0));
  EXPECT_THAT(Keep({kNan, kInf, kInf}, 2, {0}), ElementsAre(0, 1));
}

TEST(TopK, MoreProtectedRowsThanKRaiseK) {
  EXPECT_THAT(Keep({1, 2, 3, 4}, 1, {0, 2}), ElementsAre(0, 2));
  EXPECT_THAT(Keep({1, 2, 3}, 0, {0, 1, 2}), ElementsAre(0, 1, 2));
}

TEST(TopK, EqualsASortOnRandomScoresWithTies) {
  std::mt19937 random(1);
  TopK<double> top_k;
  for (int round = 0; round < 2000; ++round) {
    const int n = 1 + static_cast<int>(random() % 40);
    std::vector<double> scores(n);
    for (double& score : scores) {
      score = static_cast<double>(random() % 8);
      if (random() % 16 == 0) score = std::numeric_limits<double>::quiet_NaN();
    }
    std::vector<int32_t> always;
    for (int i = 0; i < n; ++i) {
      if (random() % 10 == 0) always.push_back(i);
    }
    const auto k = static_cast<size_t>(random() % (n + 2));

    std::vector<int32_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    const auto rank = [&](int32_t i) {
      if (std::ranges::count(always, i) > 0) return 1e9;
      return std::isnan(scores[i]) ? -1e9 : scores[i];
    };
    std::ranges::stable_sort(order, std::greater<>(), rank);
    order.resize(std::min<size_t>(n, std::max(k, always.size())));
    std::ranges::sort(order);

    const auto kept = top_k(scores, static_cast<int64_t>(k), always);
    EXPECT_EQ(std::vector<int32_t>(kept.begin(), kept.end()), order) << "round " << round;
  }
}

TEST(KeepCount, RoundsUpButNotForABinaryFraction) {
  EXPECT_EQ(KeepCount(10, 0.7), 7);  // 10 * 0.7 is a little above 7 in some orders of arithmetic.
  EXPECT_EQ(KeepCount(10, 0.71), 8);
  EXPECT_EQ(KeepCount(3, 1.0 / 3), 1);
  EXPECT_EQ(KeepCount(100, 0.29), 29);
  EXPECT_EQ(KeepCount(128, 0.94), 121);
}

TEST(KeepCount, StaysBetweenOneAndAll) {
  EXPECT_EQ(KeepCount(0, 0.5), 0);
  EXPECT_EQ(KeepCount(5, 1e-12), 1);
  EXPECT_EQ(KeepCount(5, 1.0), 5);
  EXPECT_EQ(KeepCount(5, 2.0), 5);
  EXPECT_EQ(KeepCount(1, 0.1), 1);
}

}  // namespace
}  // namespace thresher
