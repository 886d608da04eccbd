#include "backend/device/simulator/spatten/top_k_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace thresher {
namespace {

using ::testing::ElementsAre;

TEST(TopKEngine, TwoValuesTakeARoundOrTwo) {
  // Of 2, rank 1: the first pivot is it (1 + 3 cycles), or is rank 0, and then a round of one more.
  const TopKEngine::Options options{.parallelism = 16};
  EXPECT_DOUBLE_EQ(ExpectedRankCycles(2, 1, options), 4 + 0.5 * 4);
  TopKEngine engine(options);
  bool one = false, two = false;
  for (int i = 0; i < 50; ++i) {
    const TopKEngine::Cost cost = engine.Rank(2, 1);
    one |= cost.rounds == 1 && cost.cycles == 4 && cost.comparisons == 2;
    two |= cost.rounds == 2 && cost.cycles == 8 && cost.comparisons == 3;
  }
  EXPECT_TRUE(one && two);
}

TEST(TopKEngine, KeepingAllOrNoneTakesNothing) {
  TopKEngine engine({});
  EXPECT_EQ(engine.Rank(10, 10).cycles, 0);
  EXPECT_EQ(engine.Rank(10, 0).cycles, 0);
  EXPECT_EQ(engine.Rank(0, 0).cycles, 0);
  EXPECT_THAT(engine.Select(std::vector<float>{3, 1}, 2).kept, ElementsAre(0, 1));
  EXPECT_TRUE(engine.Select(std::vector<float>{3, 1}, 0).kept.empty());
}

TEST(TopKEngine, TheRecursionGivesThePublishedExpectations) {
  struct Row {
    int64_t n, k;
    double by_parallelism[3];  // 4, 16, 32.
  };
  for (const Row& row :
       {Row{64, 32, {72.78, 37.06, 31.41}}, Row{256, 32, {200.59, 74.08, 53.31}},
        Row{384, 96, {327.44, 109.24, 73.17}}, Row{512, 128, {428.93, 136.11, 87.60}},
        Row{1024, 128, {736.45, 215.21, 128.63}}, Row{1024, 512, {899.89, 258.21, 151.56}},
        Row{2048, 512, {1636.06, 445.14, 246.94}}, Row{4096, 512, {2858.42, 752.95, 402.33}}}) {
    for (int i = 0; i < 3; ++i) {
      const int32_t parallelism = std::vector<int32_t>{4, 16, 32}[i];
      EXPECT_NEAR(ExpectedRankCycles(row.n, row.k, {.parallelism = parallelism}),
                  row.by_parallelism[i], 0.005)
          << row.n << " -> " << row.k << ", " << parallelism;
    }
  }
}

TEST(TopKEngine, MeanCyclesAreWithinOnePercentOfTheExpectation) {
  for (const int32_t parallelism : {4, 16, 32}) {
    for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{
             {64, 32}, {256, 32}, {384, 96}, {1024, 128}, {1024, 512}, {4096, 512}}) {
      const TopKEngine::Options options{.parallelism = parallelism};
      TopKEngine engine(options);
      // With a deviation of a third of the mean, 1 % is over 8 standard errors.
      constexpr int kRuns = 100'000;
      int64_t cycles = 0;
      for (int i = 0; i < kRuns; ++i) cycles += engine.Rank(n, k).cycles;
      const double expected = ExpectedRankCycles(n, k, options);
      EXPECT_NEAR(static_cast<double>(cycles) / kRuns, expected, 0.01 * expected)
          << n << " -> " << k << ", " << parallelism;
    }
  }
}

TEST(TopKEngine, SelectingAmongValuesCostsTheSame) {
  const TopKEngine::Options options{.parallelism = 16};
  TopKEngine engine(options);
  std::vector<float> values(256);
  std::iota(values.begin(), values.end(), 0.0f);
  std::shuffle(values.begin(), values.end(), std::mt19937(3));
  constexpr int kRuns = 20'000;
  int64_t cycles = 0;
  for (int i = 0; i < kRuns; ++i) cycles += engine.Select(values, 33).cost.cycles;
  const double expected = ExpectedRankCycles(256, 32, options);
  EXPECT_NEAR(static_cast<double>(cycles) / kRuns, expected, 0.01 * expected);
}

TEST(TopKEngine, FirstEqualsAreKept) {
  TopKEngine engine({.parallelism = 2});
  const std::vector<float> values = {1, 3, 2, 2, 5, 2, 0};
  for (int i = 0; i < 20; ++i) {
    EXPECT_THAT(engine.Select(values, 3).kept, ElementsAre(1, 2, 4));
    EXPECT_THAT(engine.Select(values, 4).kept, ElementsAre(1, 2, 3, 4));
    EXPECT_THAT(engine.Select(values, 6).kept, ElementsAre(0, 1, 2, 3, 4, 5));
  }
}

TEST(TopKEngine, SelectionsAreThoseOfAStableSort) {
  std::mt19937 random(7);
  TopKEngine engine({.parallelism = 8});
  for (int run = 0; run < 200; ++run) {
    std::vector<float> values(1 + random() % 100);
    for (float& value : values) value = static_cast<float>(random() % 10);  // Many equals.
    const auto k = static_cast<int32_t>(random() % (values.size() + 1));
    std::vector<int32_t> expected(values.size());
    std::iota(expected.begin(), expected.end(), 0);
    std::stable_sort(expected.begin(), expected.end(),
                     [&](int32_t a, int32_t b) { return values[a] > values[b]; });
    expected.resize(k);
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(engine.Select(values, k).kept, expected);
  }
}

TEST(TopKEngine, ResetRepeatsThePivots) {
  TopKEngine engine({});
  std::vector<int64_t> first, second;
  for (auto* run : {&first, &second}) {
    engine.Reset();
    for (int i = 0; i < 20; ++i) run->push_back(engine.Rank(500, 70).cycles);
  }
  EXPECT_EQ(first, second);
  EXPECT_GT(*std::max_element(first.begin(), first.end()),
            *std::min_element(first.begin(), first.end()));
}

TEST(ZeroEliminator, KeepsOrderAndTakesALogarithmOfStages) {
  std::vector<int32_t> lanes = {7, 0, 8, 9, 0, 0, 4, 0};
  std::vector<bool> occupied = {true, false, true, true, false, false, true, false};
  EXPECT_EQ(EliminateZeros(&lanes, &occupied), 3);
  EXPECT_THAT(occupied, ElementsAre(true, true, true, true, false, false, false, false));
  lanes.resize(4);
  EXPECT_THAT(lanes, ElementsAre(7, 8, 9, 4));
}

TEST(ZeroEliminator, EveryPatternOfTenLanes) {
  for (int pattern = 0; pattern < 1024; ++pattern) {
    std::vector<int32_t> lanes(10), expected;
    std::vector<bool> occupied(10);
    for (int i = 0; i < 10; ++i) {
      lanes[i] = i;
      occupied[i] = pattern >> i & 1;
      if (occupied[i]) expected.push_back(i);
    }
    EliminateZeros(&lanes, &occupied);
    lanes.resize(expected.size());
    EXPECT_EQ(lanes, expected) << pattern;
  }
}

}  // namespace
}  // namespace thresher
