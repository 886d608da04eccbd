#include "backend/engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

namespace thresher {
namespace {

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f};

std::map<int32_t, int> Draws(const SamplingOptions& options, std::span<const float> logits,
                             int count) {
  Sampler sampler(options, {});
  std::map<int32_t, int> draws;
  for (int i = 0; i < count; ++i) ++draws[sampler.Next(logits).value()];
  return draws;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargest) {
  EXPECT_EQ(Draws({}, kLogits, 3), (std::map<int32_t, int>{{1, 3}}));
}

TEST(Sampler, DrawsAsOftenAsProbable) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  const auto draws = Draws({.temperature = 1.0, .seed = 5}, logits, 20000);
  EXPECT_NEAR(draws.at(0), 10000, 300);
  EXPECT_NEAR(draws.at(1), 6000, 300);
  EXPECT_NEAR(draws.at(2), 4000, 300);
  // At temperature 1/2 probabilities are squared: 25 : 9 : 4.
  const auto cold = Draws({.temperature = 0.5, .seed = 5}, logits, 20000);
  EXPECT_NEAR(cold.at(0), 20000 * 25 / 38, 300);
}

TEST(Sampler, TheSeedDecidesAndNothingElse) {
  const SamplingOptions options{.temperature = 1.0, .seed = 42};
  std::vector<int32_t> texts[3];
  for (int t = 0; t < 3; ++t) {
    SamplingOptions seeded = options;
    if (t == 2) seeded.seed = 43;
    Sampler sampler(seeded, {});
    for (int i = 0; i < 50; ++i) texts[t].push_back(sampler.Next(kLogits).value());
  }
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_NE(texts[0], texts[2]);
}

TEST(Sampler, TopKCutsToTheLargestTheLowerIdFirst) {
  const auto one = Draws({.temperature = 2.0, .top_k = 1}, kLogits, 100);
  EXPECT_EQ(one, (std::map<int32_t, int>{{1, 100}}));
  const auto two = Draws({.temperature = 2.0, .top_k = 2}, kLogits, 200);
  EXPECT_EQ(two.size(), 2);
  EXPECT_TRUE(two.contains(1) && two.contains(3));
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  EXPECT_EQ(Draws({.temperature = 1.0, .top_p = 0.5}, logits, 300).size(), 1);
  EXPECT_EQ(Draws({.temperature = 1.0, .top_p = 0.51}, logits, 300).size(), 2);
  EXPECT_EQ(Draws({.temperature = 1.0, .top_p = 0.81}, logits, 300).size(), 3);
}

TEST(Sampler, MinPKeepsThoseNearTheLargest) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  EXPECT_EQ(Draws({.temperature = 1.0, .min_p = 0.7}, logits, 300).size(), 1);
  EXPECT_EQ(Draws({.temperature = 1.0, .min_p = 0.5}, logits, 300).size(), 2);
  EXPECT_EQ(Draws({.temperature = 1.0, .min_p = 1.0}, logits, 300).size(), 1);
}

TEST(Sampler, CutsAgreeWithTheirDefinitionOnAWideVocabulary) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  std::vector<float> logits(5000);
  for (float& logit : logits) logit = normal(random);
  const SamplingOptions options{.temperature = 1.3, .top_k = 700, .top_p = 0.9, .seed = 9};
  std::vector<std::pair<double, int32_t>> sorted;
  for (size_t i = 0; i < logits.size(); ++i) {
    sorted.emplace_back(-double{logits[i]}, static_cast<int32_t>(i));
  }
  std::ranges::sort(sorted);
  sorted.resize(700);
  double total = 0.0;
  for (const auto& [negative, id] : sorted) total += std::exp(-negative / 1.3);
  std::map<int32_t, double> allowed;
  double reached = 0.0;
  for (const auto& [negative, id] : sorted) {
    if (reached >= 0.9 * total) break;
    reached += allowed[id] = std::exp(-negative / 1.3);
  }
  const auto draws = Draws(options, logits, 3000);
  for (const auto& [id, count] : draws) {
    ASSERT_TRUE(allowed.contains(id)) << id;
    const double expected = 3000 * allowed[id] / reached;
    EXPECT_NEAR(count, expected, 6 * std::sqrt(expected) + 6) << id;
  }
}

TEST(Sampler, PenalisesWhatWasSeen) {
  // Halved, token 1 falls behind token 3; then that too, and 1 and 3 go on in turns with 2.
  Sampler sampler({.repetition_penalty = 2.0}, std::vector<int32_t>{1});
  EXPECT_EQ(sampler.Next(kLogits).value(), 3);
  EXPECT_EQ(sampler.Next(kLogits).value(), 2);
  EXPECT_EQ(sampler.Next(kLogits).value(), 1);
  // A negative logit is multiplied.
  const std::vector<float> negative = {-1.0f, -1.5f};
  Sampler below({.repetition_penalty = 2.0}, std::vector<int32_t>{0});
  EXPECT_EQ(below.Next(negative).value(), 1);
}

TEST(Sampler, RefusesWhatIsNotFinite) {
  Sampler sampler({}, {});
  const float bad[] = {1.0f, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_TRUE(absl::IsInternal(sampler.Next(bad).status()));
  const float infinite[] = {1.0f, std::numeric_limits<float>::infinity()};
  EXPECT_TRUE(absl::IsInternal(sampler.Next(infinite).status()));
}

TEST(CheckSampling, NamesTheOptionThatIsOutOfRange) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(CheckSampling({}).ok());
  EXPECT_TRUE(CheckSampling({.temperature = 0.7, .top_k = 40, .top_p = 0.9}).ok());
  const std::pair<SamplingOptions, std::string> cases[] = {
      {{.temperature = -1.0}, "temperature"},
      {{.temperature = nan}, "temperature"},
      {{.top_k = -1}, "top_k"},
      {{.top_p = 0.0}, "top_p"},
      {{.top_p = 1.5}, "top_p"},
      {{.top_p = nan}, "top_p"},
      {{.min_p = -0.1}, "min_p"},
      {{.min_p = 2.0}, "min_p"},
      {{.repetition_penalty = 0.0}, "repetition_penalty"},
      {{.repetition_penalty = nan}, "repetition_penalty"}};
  for (const auto& [options, name] : cases) {
    const absl::Status status = CheckSampling(options);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name;
    EXPECT_NE(std::string(status.message()).find(name), std::string::npos) << status;
  }
}

TEST(LogProbability, IsThatOfTheSoftmax) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  EXPECT_NEAR(LogProbability(logits, 1), std::log(0.3), 1e-6);
  const auto top = TopLogProbabilities(logits, 2, LogSum(logits));
  ASSERT_EQ(top.size(), 2);
  EXPECT_EQ(top[0].second, 0);
  EXPECT_NEAR(top[1].first, std::log(0.3), 1e-6);
  EXPECT_EQ(TopLogProbabilities(logits, 9, LogSum(logits)).size(), 3);
  EXPECT_EQ(TopLogProbabilities(kLogits, 2, LogSum(kLogits))[1].second, 3);
}

}  // namespace
}  // namespace thresher
