#include "backend/evaluation/quality.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backend/sparsity/comparison.h"
#include "backend/sparsity/confidence.h"
#include "tests/evaluation/fake_runner.h"

namespace thresher {
namespace {

using testing::Sure;

std::vector<LabelledExample> Golds(const std::vector<double>& golds) {
  std::vector<LabelledExample> examples;
  for (const double gold : golds) examples.push_back({.text = "t", .gold = gold});
  return examples;
}

std::vector<Answer> Scores(const std::vector<float>& scores) {
  std::vector<Answer> answers;
  for (const float score : scores) answers.push_back({.output = {score}, .pooled = {1, 0}});
  return answers;
}

TEST(MeasureQuality, CountsAreWorkedByHand) {
  // Dense: right, right, wrong, wrong. Pruned: right, wrong, right, wrong.
  const auto examples = Golds({0, 0, 1, 1});
  const std::vector<Answer> dense = {Sure(0), Sure(0), Sure(0), Sure(0)};
  std::vector<Answer> pruned = {Sure(0), Sure(1), Sure(1), Sure(0)};
  pruned[0].pooled = {0, 1};
  const auto quality = MeasureQuality(Measure::kAccuracy, examples, dense, pruned, 0.95);
  ASSERT_TRUE(quality.ok()) << quality.status();
  EXPECT_EQ(quality->n, 4);
  EXPECT_DOUBLE_EQ(*quality->accuracy, 0.5);
  EXPECT_DOUBLE_EQ(quality->agreement, 0.5);
  EXPECT_DOUBLE_EQ(quality->loss, 0.0);
  EXPECT_DOUBLE_EQ(
      quality->loss_upper,
      AccuracyLossUpperBound({.both_right = 1, .lost = 1, .gained = 1, .both_wrong = 1}, 0.95));
  // KL of (p, 1 - p) and (1 - p, p) with logits 2 apart is 2 (2 p - 1); half the examples have it.
  const double p = 1 / (1 + std::exp(-2.0));
  EXPECT_NEAR(*quality->kl, 0.5 * 2 * (2 * p - 1), 1e-6);
  EXPECT_GT(*quality->kl_upper, *quality->kl);
  EXPECT_DOUBLE_EQ(quality->cosine, 0.75);
  EXPECT_FALSE(quality->spearman.has_value());
}

TEST(MeasureQuality, TheDenseAnswersThemselvesLoseNothing) {
  const auto examples = Golds(std::vector<double>(50, 0));
  const std::vector<Answer> dense(50, Sure(0));
  const auto quality = MeasureQuality(Measure::kAccuracy, examples, dense, dense, 0.95);
  ASSERT_TRUE(quality.ok());
  EXPECT_EQ(quality->loss, 0);
  EXPECT_EQ(*quality->kl, 0);
  EXPECT_EQ(quality->agreement, 1);
  EXPECT_DOUBLE_EQ(quality->cosine, 1);
  // But 50 examples do not prove it to a tenth of a point.
  EXPECT_GT(quality->loss_upper, 0.001);
  EXPECT_EQ(quality->loss_upper, LeastLossUpperBound(Measure::kAccuracy, 50, 0.95));
}

TEST(MeasureQuality, CorrelationsAreWorkedByHand) {
  const auto examples = Golds({1, 2, 3, 4});
  const auto quality = MeasureQuality(Measure::kSimilarity, examples, Scores({1, 2, 3, 4}),
                                      Scores({1, 3, 2, 4}), 0.95);
  ASSERT_TRUE(quality.ok()) << quality.status();
  // One swap of neighbours in four ranks: 1 - 6 * 2 / (4 * 15).
  EXPECT_NEAR(*quality->spearman, 0.8, 1e-12);
  EXPECT_NEAR(*quality->pearson, 0.8, 1e-12);
  EXPECT_NEAR(quality->agreement, 0.8, 1e-12);
  EXPECT_NEAR(quality->loss, 0.2, 1e-12);
  EXPECT_GE(quality->loss_upper, quality->loss);
  EXPECT_FALSE(quality->kl.has_value());
  EXPECT_FALSE(quality->accuracy.has_value());
}

TEST(MeasureQuality, ConstantAnswersFollowNothing) {
  const auto quality = MeasureQuality(Measure::kSimilarity, Golds({1, 2, 3}), Scores({1, 2, 3}),
                                      Scores({5, 5, 5}), 0.95);
  ASSERT_TRUE(quality.ok());
  EXPECT_EQ(*quality->spearman, 0);
  EXPECT_DOUBLE_EQ(quality->loss, 1);
}

TEST(MeasureQuality, WithoutDifferencesThereIsNoCorrelation) {
  EXPECT_EQ(MeasureQuality(Measure::kSimilarity, Golds({1, 1, 1}), Scores({1, 2, 3}),
                           Scores({1, 2, 3}), 0.95)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(
      MeasureQuality(Measure::kSimilarity, Golds({1}), Scores({1}), Scores({1}), 0.95).ok());
}

TEST(MeasureQuality, AnswersHaveToFit) {
  const auto examples = Golds({0, 1});
  const std::vector<Answer> two = {Sure(0), Sure(1)};
  const std::vector<Answer> one = {Sure(0)};
  EXPECT_EQ(MeasureQuality(Measure::kAccuracy, examples, two, one, 0.95).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(MeasureQuality(Measure::kAccuracy, examples, two, Scores({1, 2}), 0.95).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(MeasureQuality(Measure::kAccuracy, {}, {}, {}, 0.95).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SimilarityLoss, UpperBoundCoversTheTrueLossAsOftenAsItSays) {
  // Answers are gold and noise; the loss of a large sample stands for the true one.
  std::mt19937_64 random(7);
  std::normal_distribution<double> normal;
  struct Sample {
    std::vector<double> gold;
    std::vector<float> dense, pruned;
  };
  const auto sample = [&](int n) {
    Sample s;
    for (int i = 0; i < n; ++i) {
      s.gold.push_back(normal(random));
      s.dense.push_back(static_cast<float>(s.gold.back() + 0.5 * normal(random)));
      s.pruned.push_back(static_cast<float>(s.dense.back() + 0.4 * normal(random)));
    }
    return s;
  };
  const auto spearman = [](const std::vector<double>& gold, const std::vector<float>& scores) {
    return SpearmanCorrelation(gold, std::vector<double>(scores.begin(), scores.end()));
  };
  const Sample large = sample(50000);
  const double truth = spearman(large.gold, large.dense) - spearman(large.gold, large.pruned);
  int covered = 0;
  constexpr int kTrials = 100;
  for (int trial = 0; trial < kTrials; ++trial) {
    const Sample s = sample(60);
    const auto quality =
        MeasureQuality(Measure::kSimilarity, Golds(s.gold), Scores(s.dense), Scores(s.pruned), 0.9);
    ASSERT_TRUE(quality.ok());
    covered += quality->loss_upper >= truth ? 1 : 0;
  }
  // 90 are expected, with a standard deviation of 3.
  EXPECT_GE(covered, 80);
}

TEST(SimilarityLoss, FewExamplesPromiseLittleEvenWithoutADifference) {
  std::vector<double> gold;
  std::vector<float> scores;
  for (int i = 0; i < 50; ++i) {
    gold.push_back(i);
    scores.push_back(static_cast<float>(i % 7));
  }
  const auto quality =
      MeasureQuality(Measure::kSimilarity, Golds(gold), Scores(scores), Scores(scores), 0.95);
  ASSERT_TRUE(quality.ok());
  EXPECT_EQ(quality->loss, 0);
  EXPECT_NEAR(quality->loss_upper, 1 - std::pow(0.05, 1.0 / 50), 1e-9);
}

}  // namespace
}  // namespace thresher
