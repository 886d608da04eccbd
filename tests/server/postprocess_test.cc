#include "server/postprocess.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;

TEST(SoftmaxTest, GivesTheDistributionByHand) {
  std::vector<float> values = {0, std::log(3.0f)};
  Softmax(values);
  EXPECT_THAT(values, ElementsAre(FloatNear(0.25f, 1e-6f), FloatNear(0.75f, 1e-6f)));
}

TEST(SoftmaxTest, DoesNotOverflow) {
  std::vector<float> values = {1e30f, 1e30f};
  Softmax(values);
  EXPECT_THAT(values, ElementsAre(0.5f, 0.5f));
  std::vector<float> none;
  Softmax(none);
}

TEST(ScoresTest, AreIndependentForMultiLabelAndForASingleScore) {
  ModelInfo info;
  std::vector<float> values = {0, 100};
  info.multi_label = true;
  ToScores(info, values);
  EXPECT_THAT(values, ElementsAre(0.5f, 1.0f));
  info.multi_label = false;
  values = {0};
  ToScores(info, values);
  EXPECT_THAT(values, ElementsAre(0.5f));
  values = {0, 0};
  ToScores(info, values);
  EXPECT_THAT(values, ElementsAre(0.5f, 0.5f));
}

TEST(ArgMaxTest, TakesTheFirstOfEquals) {
  EXPECT_EQ(ArgMax(std::vector<float>{1, 3, 3}), 1u);
  EXPECT_EQ(ArgMax(std::vector<float>{}), 0u);
}

TEST(LabelTest, NamesWhatTheModelDoesNot) {
  ModelInfo info;
  info.labels = {"a"};
  EXPECT_EQ(LabelOf(info, 0), "a");
  EXPECT_EQ(LabelOf(info, 1), "LABEL_1");
}

/// All spans by the definition: the best, then the best that overlaps no better one.
std::vector<Span> SlowBestSpans(std::vector<float> start, std::vector<float> end, size_t max_tokens,
                                size_t top) {
  Softmax(start);
  Softmax(end);
  std::vector<Span> all;
  for (size_t first = 0; first < start.size(); ++first) {
    for (size_t last = first; last < start.size() && last - first < max_tokens; ++last) {
      all.push_back({first, last, start[first] * end[last]});
    }
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Span& a, const Span& b) { return a.score > b.score; });
  std::vector<Span> taken;
  for (const Span& span : all) {
    const bool free = std::none_of(taken.begin(), taken.end(), [&](const Span& other) {
      return span.first <= other.last && other.first <= span.last;
    });
    if (free && taken.size() < top) taken.push_back(span);
  }
  return taken;
}

TEST(BestSpansTest, FindsTheSpanByHand) {
  // Starts at 1, ends at 2; ending before the start would score more, but is no span.
  const std::vector<float> start = {0, 5, 0, 0};
  const std::vector<float> end = {6, 0, 5, 0};
  const auto spans = BestSpans(start, end, 30, 1);
  ASSERT_EQ(spans.size(), 1u);
  EXPECT_EQ(spans[0].first, 1u);
  EXPECT_EQ(spans[0].last, 2u);
  const double e5 = std::exp(5), e6 = std::exp(6);
  EXPECT_NEAR(spans[0].score, e5 / (e5 + 3) * e5 / (e6 + e5 + 2), 1e-6);
}

TEST(BestSpansTest, KeepsToTheLongestAnswer) {
  const std::vector<float> start = {9, 0, 0, 0};
  const std::vector<float> end = {0, 0, 0, 9};
  EXPECT_EQ(BestSpans(start, end, 4, 1)[0].last, 3u);
  const Span cut = BestSpans(start, end, 3, 1)[0];
  EXPECT_LE(cut.last - cut.first, 2u);
}

TEST(BestSpansTest, AgreesWithTheDefinition) {
  std::mt19937 random(1);
  std::normal_distribution<float> logit(0, 2);
  for (int round = 0; round < 300; ++round) {
    const size_t tokens = random() % 24;
    std::vector<float> start(tokens), end(tokens);
    for (float& value : start) value = logit(random);
    for (float& value : end) value = logit(random);
    const size_t max_tokens = 1 + random() % 10;
    const size_t top = 1 + random() % 5;
    const auto spans = BestSpans(start, end, max_tokens, top);
    const auto expected = SlowBestSpans(start, end, max_tokens, top);
    ASSERT_EQ(spans.size(), expected.size());
    for (size_t i = 0; i < spans.size(); ++i) {
      EXPECT_EQ(spans[i].first, expected[i].first);
      EXPECT_EQ(spans[i].last, expected[i].last);
      EXPECT_EQ(spans[i].score, expected[i].score);
    }
  }
}

TEST(BestSpansTest, SurvivesWhatIsNotANumber) {
  const std::vector<float> nan(5, std::numeric_limits<float>::quiet_NaN());
  for (const Span& span : BestSpans(nan, nan, 3, 5)) {
    EXPECT_LE(span.first, span.last);
    EXPECT_LT(span.last, 5u);
  }
}

}  // namespace
}  // namespace thresher
