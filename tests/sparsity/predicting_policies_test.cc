// Policies that choose keys by a prediction: their rule by hand, what they ask for and refuse, and
// that they hold their invariants on whatever scores.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/device/plan_rows.h"
#include "backend/device/top_k.h"
#include "backend/sparsity/key_choice.h"
#include "backend/sparsity/policy.h"
#include "backend/tensor/status.h"
#include "tests/sparsity/given_scores.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

PolicyShape Shape(int32_t heads, int32_t head_dim = 8) {
  return {.layers = 2,
          .heads = heads,
          .kv_heads = heads,
          .head_dim = head_dim,
          .hidden_size = head_dim * heads,
          .ffn_size = 4 * head_dim * heads};
}

std::shared_ptr<const Policy> Make(std::string_view text, const PolicyShape& shape) {
  auto policy = Policy::Parse(text, shape);
  EXPECT_TRUE(policy.ok()) << text << ": " << Message(policy.status());
  return policy.ok() ? *policy : nullptr;
}

/// One head's scores [rows][rows], row by row.
using Scores = std::vector<float>;

struct Case {
  std::vector<Scores> heads;
  int32_t rows = 0;
  std::vector<float> query, key;  // [rows][heads * head_dim]; zeros unless given.
  SequencePlan plan;
};

/// The plan that a policy makes for layer 0.
SequencePlan PlanFor(std::string_view text, const PolicyShape& shape, Case given) {
  const auto policy = Make(text, shape);
  std::vector<ConstMatrix> scores;
  for (const Scores& head : given.heads) {
    scores.push_back(head.empty() ? ConstMatrix()
                                  : ConstMatrix(head.data(), given.rows, given.rows));
  }
  const testing::GivenScores prediction(scores);
  const size_t width = static_cast<size_t>(shape.heads) * shape.head_dim;
  given.query.resize(given.rows * width);
  given.key.resize(given.rows * width);
  const auto cols = static_cast<int64_t>(width);
  const LayerVectors vectors = {.query = {given.query.data(), given.rows, cols},
                                .key = {given.key.data(), given.rows, cols}};
  std::vector<int32_t> positions(given.rows);
  std::iota(positions.begin(), positions.end(), 0);
  const auto run = policy->Start(given.rows, {});
  const bool early = policy->prediction().from_input();
  run->BeforeProjection(0, positions, early ? &prediction : nullptr, &given.plan);
  run->BeforeScores(0, positions, vectors, early ? nullptr : &prediction, &given.plan);
  const absl::Status status = CheckPlan(given.plan, {.heads = shape.heads,
                                                     .kv_heads = shape.kv_heads,
                                                     .queries = given.rows,
                                                     .keys = given.rows});
  EXPECT_TRUE(status.ok()) << Message(status);
  return given.plan;
}

std::vector<int32_t> Row(const CandidateMask& mask, int32_t head, int32_t query) {
  std::vector<int32_t> keys;
  for (int32_t j = 0; j < mask.keys(); ++j) {
    if (mask.test(head, query, j)) keys.push_back(j);
  }
  return keys;
}

/// What the rule leaves of one row, with all keys allowed.
std::vector<int32_t> Chosen(const KeyRule& rule, const std::vector<float>& scores) {
  RowChooser chooser(rule);
  const auto rows = static_cast<int32_t>(scores.size());
  CandidateMask mask(1, 1, rows);
  chooser.Look(scores.data(), rows, nullptr);
  chooser.Choose(mask.row(0, 0));
  return Row(mask, 0, 0);
}

TEST(KeyRule, SegmentsGiveTheirShareEach) {
  const std::vector<float> scores = {9, 8, 7, 6, 1, 2, 3, 4};
  EXPECT_THAT(Chosen({.topk = 0.5}, scores), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Chosen({.topk = 0.5, .segments = 2}, scores), ElementsAre(0, 1, 6, 7));
  EXPECT_THAT(Chosen({.topk = 0.5, .segments = 4}, scores), ElementsAre(0, 2, 5, 7));
  // Fewer keys than segments: one of each.
  EXPECT_THAT(Chosen({.topk = 0.1, .segments = 4}, scores), ElementsAre(0, 2, 5, 7));
  EXPECT_THAT(Chosen({.topk = 0.5, .segments = 64}, {1, 2}), ElementsAre(0, 1));
}

TEST(KeyRule, TheRadiusIsAroundTheLargestSoFar) {
  // 4 comes before the 9 that would hide it; 5 after it is hidden, 8 is not.
  const std::vector<float> scores = {4, 9, 5, 8, /**/ 0, 0, 0, 0};
  EXPECT_THAT(Chosen({.topk = 1, .segments = 2, .radius = 2}, scores),
              ElementsAre(0, 1, 3, 4, 5, 6, 7));
  // Of those that were sorted the best stay.
  EXPECT_THAT(Chosen({.topk = 0.5, .segments = 2, .radius = 2}, scores), ElementsAre(1, 3, 4, 5));
  EXPECT_THAT(Chosen({.topk = 0.5, .segments = 2, .radius = 0.5}, scores), ElementsAre(0, 1, 4, 5));
}

TEST(KeyRule, SegmentsFindMostOfTheTopQuarter) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  int hits = 0;
  constexpr int kRounds = 50;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<float> scores(1024);
    for (float& score : scores) score = normal(random);
    const auto all = Chosen({.topk = 0.25}, scores);
    const auto parts = Chosen({.topk = 0.25, .segments = 4}, scores);
    ASSERT_EQ(all.size(), 256u);
    ASSERT_EQ(parts.size(), 256u);
    for (const int32_t j : parts) hits += std::ranges::binary_search(all, j) ? 1 : 0;
  }
  // The paper: about 3 % off at this size.
  EXPECT_GT(hits, 0.95 * 256 * kRounds);
  EXPECT_LT(hits, 256 * kRounds);
}

TEST(Sanger, KeepsWhatIsAboveTheThreshold) {
  // Probabilities 1/2, 1/4, 1/8, 1/8.
  const float ln2 = std::log(2.0f);
  const std::vector<float> row = {3 * ln2, 2 * ln2, ln2, ln2};
  Scores scores;
  for (int i = 0; i < 4; ++i) scores.insert(scores.end(), row.begin(), row.end());
  const auto kept = [&](const char* text) {
    return Row(*PlanFor(text, Shape(1), {.heads = {scores}, .rows = 4}).candidates, 0, 2);
  };
  EXPECT_THAT(kept("sanger:threshold=0.2"), ElementsAre(0, 1));
  EXPECT_THAT(kept("sanger:threshold=0.124"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(kept("sanger:threshold=1"), ElementsAre(0));
  // Above, not at: of equals all but the best go.
  const Scores equal(4, 0.0f);
  EXPECT_THAT(
      Row(*PlanFor("sanger:threshold=0.5", Shape(1), {.heads = {equal}, .rows = 2}).candidates, 0,
          0),
      ElementsAre(0));
}

TEST(Sanger, ChoosesAmongThoseOfAnEarlierPartAndOfHeadsThatRun) {
  Case given = {.heads = {{}, {9, 1, 9, 1}}, .rows = 2};
  given.plan.heads = {{1}};
  given.plan.candidates.emplace(2, 2, 2);
  given.plan.candidates->set(1, 0, 1);
  given.plan.candidates->set(1, 1, 0);
  given.plan.candidates->set(1, 1, 1);
  const SequencePlan plan = PlanFor("sanger:threshold=0.5", Shape(2), given);
  EXPECT_THAT(Row(*plan.candidates, 1, 0), ElementsAre(1));
  EXPECT_THAT(Row(*plan.candidates, 1, 1), ElementsAre(0));
}

TEST(Elsa, KeepsKeysWhoseEstimateReachesTheThreshold) {
  // Hashes of 4 bits; products 4, 2, 0, -4 are distances 0, 1, 2, 4: cosines 1, 0.707, 0, -1.
  // Norms 1, 2, 4, 4: similarities 1, 1.414, 0, -4; the longest key is 4.
  const Scores row = {4, 2, 0, -4};
  Scores products;
  for (int i = 0; i < 4; ++i) products.insert(products.end(), row.begin(), row.end());
  const PolicyShape shape = Shape(1, 4);
  const Case given = {.heads = {products},
                      .rows = 4,
                      .key = {1, 0, 0, 0, /**/ 0, 2, 0, 0, /**/ 0, 0, 4, 0, /**/ 0, 0, 0, -4}};
  const auto kept = [&](const char* text) {
    return Row(*PlanFor(text, shape, given).candidates, 0, 1);
  };
  EXPECT_THAT(kept("elsa:threshold=0.3,bias=0"), ElementsAre(1));
  EXPECT_THAT(kept("elsa:threshold=0.25,bias=0"), ElementsAre(0, 1));
  EXPECT_THAT(kept("elsa:threshold=0,bias=0"), ElementsAre(0, 1, 2));
  // The best one stays.
  EXPECT_THAT(kept("elsa:threshold=0.9,bias=0"), ElementsAre(1));
  // The bias takes an eighth of a turn off: cosines 1, 1, 0.707, -0.707.
  EXPECT_THAT(kept("elsa:threshold=0.4,bias=0.785398163"), ElementsAre(1, 2));
  // By layer; this is the first.
  EXPECT_THAT(kept("elsa:thresholds=0.3/0,bias=0"), ElementsAre(1));
}

TEST(Elsa, WithoutAThresholdItIsDense) {
  EXPECT_TRUE(Make("elsa", Shape(2))->is_dense());
  EXPECT_TRUE(Make("elsa:bias=0.2,hash=8", Shape(2))->is_dense());
  const PredictionRequest request = Make("elsa:threshold=0.5,hash=8", Shape(2, 16))->prediction();
  EXPECT_EQ(request.kind, PredictionKind::kSignHash);
  EXPECT_EQ(request.width, 8);
  EXPECT_EQ(Make("elsa:threshold=0.5", Shape(2, 16))->prediction().width, 16);
}

TEST(Principal, SimilarQueriesTakeOverTheLastChoice) {
  // Queries 0 and 1 point the same way, 2 is across, 3 is like 2 but not like 1.
  const Scores scores = {9, 0, 0, 0, /**/ 0, 9, 0, 0, /**/ 0, 0, 9, 0, /**/ 0, 0, 0, 9};
  const Case given = {
      .heads = {scores}, .rows = 4, .query = {1, 0, /**/ 2, 0.1f, /**/ 0, 1, /**/ 0.1f, 3}};
  const auto kept = [&](const char* text) {
    const SequencePlan plan = PlanFor(text, Shape(1, 2), given);
    std::vector<int32_t> all;
    for (int32_t i = 0; i < 4; ++i) all.push_back(Row(*plan.candidates, 0, i).at(0));
    return all;
  };
  EXPECT_THAT(kept("principal:topk=0.1,components=2"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(kept("principal:topk=0.1,components=2,similar=0.9"), ElementsAre(0, 0, 2, 2));
}

TEST(PredictingPolicies, KeepingAllIsDenseAndAsksForNothing) {
  for (const char* text :
       {"sanger", "sanger:bits=8", "elsa", "dota:rank=8", "projection:width=4",
        "projection:from=input,rank=16", "sofa", "sofa:segments=1", "principal:components=4"}) {
    const auto policy = Make(text, Shape(2));
    EXPECT_TRUE(policy->is_dense()) << text;
    EXPECT_FALSE(policy->prediction().wanted()) << text;
    EXPECT_FALSE(policy->chooses_rows()) << text;
    EXPECT_FALSE(policy->chooses_from_scores()) << text;
    EXPECT_EQ(policy->CostShare(50), 1.0) << text;
  }
}

TEST(PredictingPolicies, ARadiusAloneLeavesKeysOut) {
  EXPECT_FALSE(Make("sofa:radius=3", Shape(2))->is_dense());
}

TEST(PredictingPolicies, AskForWhatTheyPredictFrom) {
  const auto request = [](const char* text) {
    const auto policy = Make(text, Shape(4, 16));
    // What is chosen before projection decides which rows there are; what is chosen later doesn't.
    EXPECT_EQ(policy->chooses_rows(), policy->prediction().from_input()) << text;
    EXPECT_NE(policy->chooses_rows(), policy->chooses_from_scores()) << text;
    return policy->prediction();
  };
  EXPECT_EQ(request("sanger:threshold=0.01"),
            (PredictionRequest{.kind = PredictionKind::kInteger, .bits = 4}));
  EXPECT_EQ(request("dota:topk=0.5"),
            (PredictionRequest{
                .kind = PredictionKind::kInputProjection, .bits = 4, .width = 16, .rank = 32}));
  EXPECT_EQ(request("dota:topk=0.5,rank=8"),
            (PredictionRequest{
                .kind = PredictionKind::kInputProjection, .bits = 4, .width = 8, .rank = 8}));
  EXPECT_EQ(request("projection:topk=0.5,center=mean"),
            (PredictionRequest{
                .kind = PredictionKind::kProjection, .bits = 8, .width = 16, .center = true}));
  EXPECT_EQ(request("projection:topk=0.5,from=input"),
            (PredictionRequest{.kind = PredictionKind::kInputProjection, .bits = 8, .rank = 64}));
  EXPECT_EQ(request("sofa:topk=0.5"),
            (PredictionRequest{.kind = PredictionKind::kOneOperandLog, .bits = 8}));
  EXPECT_EQ(request("principal:topk=0.5,components=4"),
            (PredictionRequest{.kind = PredictionKind::kPrincipal, .bits = 8, .width = 4}));
}

TEST(PredictingPolicies, RefuseWhatTheModelCantHave) {
  const auto refusal = [](const char* text, const PolicyShape& shape = Shape(2)) {
    const auto policy = Policy::Parse(text, shape);
    return policy.ok() ? "accepted" : Message(policy.status());
  };
  EXPECT_THAT(refusal("elsa:thresholds=0.1/0.2/0.3"),
              HasSubstr("3 values; the model has 2 layers"));
  EXPECT_THAT(refusal("elsa:threshold=0.1,hash=16"), HasSubstr("hash=16 is more than the 8"));
  EXPECT_THAT(refusal("elsa:threshold=0.1,thresholds=0.1/0.2"), HasSubstr("contradict"));
  EXPECT_THAT(refusal("dota:topk=0.5,rank=32"), HasSubstr("rank=32 is more than the model's"));
  EXPECT_THAT(refusal("dota:topk=0.5,rank=7"), HasSubstr("rank='7': expected one of 8, 16"));
  EXPECT_THAT(refusal("projection:topk=0.5,width=16"), HasSubstr("width=16 is more than the 8"));
  EXPECT_THAT(refusal("projection:topk=0.5,rank=16"), HasSubstr("no effect without from=input"));
  EXPECT_THAT(refusal("projection:from=input,rank=64"), HasSubstr("rank=64 is more than the"));
  EXPECT_THAT(refusal("principal:components=16"), HasSubstr("components=16 is more than the 8"));
  EXPECT_THAT(refusal("sofa:segments=1,radius=2"), HasSubstr("radius has no effect"));
  EXPECT_THAT(refusal("sanger:threshold=1.5"), HasSubstr("[0, 1]"));
  PolicyShape decoder = Shape(2);
  decoder.causal = true;
  for (const char* name : {"sanger", "elsa", "dota", "projection", "sofa", "principal"}) {
    EXPECT_THAT(refusal(name, decoder), HasSubstr("needs an encoder")) << name;
  }
}

TEST(PredictingPolicies, OneLayerHasOnePrediction) {
  const auto refusal = [](const char* text) {
    const auto policy = Policy::Parse(text, Shape(2));
    return policy.ok() ? "accepted" : Message(policy.status());
  };
  EXPECT_THAT(refusal("sanger:threshold=0.1+fact:topk=0.5"),
              HasSubstr("sanger and fact predict scores in different ways"));
  EXPECT_EQ(refusal("spatten:final=0.5+sanger:threshold=0.1"), "accepted");
  EXPECT_THAT(refusal("sanger:threshold=0.1+projection:topk=0.5,width=4"),
              HasSubstr("in different ways"));
  EXPECT_EQ(refusal("sanger+fact:topk=0.5"), "accepted");  // The first is dense.
}

TEST(PredictingPolicies, HoldTheirInvariantsOnRandomScores) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 3);
  const char* const policies[] = {"sanger:threshold=0.02",
                                  "elsa:threshold=0.4",
                                  "dota:topk=0.3,rank=8",
                                  "projection:topk=0.3,width=4",
                                  "sofa:topk=0.3,radius=2",
                                  "principal:topk=0.3,similar=0.2",
                                  "spatten+sofa:topk=0.01,segments=64"};
  for (int round = 0; round < 60; ++round) {
    const auto rows = static_cast<int32_t>(1 + random() % 70);
    for (const char* text : policies) {
      const bool hash = std::string_view(text).starts_with("elsa");
      Case given = {.heads = std::vector<Scores>(3, Scores(rows * rows)), .rows = rows};
      for (Scores& head : given.heads) {
        for (float& score : head) {
          score = hash                 ? 2.0f * static_cast<float>(random() % 9) - 8.0f
                  : random() % 50 == 0 ? kNan
                                       : std::round(normal(random));
        }
      }
      given.query.resize(rows * 24);
      given.key.resize(rows * 24);
      for (float& x : given.query) x = normal(random);
      for (float& x : given.key) x = random() % 100 == 0 ? kNan : normal(random);
      // Checks that every query has a key.
      const SequencePlan plan = PlanFor(text, Shape(3), given);
      ASSERT_TRUE(plan.candidates.has_value());
      if (std::string_view(text).starts_with("dota")) {
        for (int32_t h = 0; h < 3; ++h) {
          for (int32_t i = 0; i < rows; ++i) {
            EXPECT_EQ(static_cast<int64_t>(Row(*plan.candidates, h, i).size()),
                      KeepCount(rows, 0.3));
          }
        }
      }
    }
  }
}

TEST(PredictingPolicies, CostCountsThePrediction) {
  const PolicyShape shape = {.layers = 12,
                             .heads = 12,
                             .kv_heads = 12,
                             .head_dim = 64,
                             .hidden_size = 768,
                             .ffn_size = 3072};
  const PredictionRequest narrow = {.kind = PredictionKind::kProjection, .width = 8};
  const PredictionRequest wide = {.kind = PredictionKind::kProjection, .width = 64};
  const double saved = 1e6;
  EXPECT_LT(PredictingCostShare(shape, 128, {}, saved),
            PredictingCostShare(shape, 128, narrow, saved));
  EXPECT_LT(PredictingCostShare(shape, 128, narrow, saved),
            PredictingCostShare(shape, 128, wide, saved));
  // Never above dense.
  EXPECT_EQ(PredictingCostShare(shape, 128, wide, 0), 1.0);
}

}  // namespace
}  // namespace thresher
