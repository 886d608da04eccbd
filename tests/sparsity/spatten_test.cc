#include "backend/sparsity/spatten.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/schedule.h"
#include "backend/tensor/status.h"
#include "tests/sparsity/layer_walk.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Numbers;
using Walk = testing::LayerWalk;

constexpr PolicyShape kShape = {
    .layers = 4, .heads = 4, .kv_heads = 4, .head_dim = 8, .hidden_size = 32, .ffn_size = 128};

std::shared_ptr<const Policy> Make(std::string_view text, const PolicyShape& shape = kShape) {
  auto policy = Policy::Parse(text, shape);
  EXPECT_TRUE(policy.ok()) << text << ": " << Message(policy.status());
  return policy.ok() ? *policy : nullptr;
}

TEST(SpattenTokens, KeepsTheMostAttendedByHand) {
  const auto policy = Make("spatten:keeps=1/0.75/0.5/0.25");
  Walk walk(*policy, kShape, 4);
  walk.Layer({0.1, 3, 1, 2});  // [CLS] stays though least: 0, 1, 3.
  EXPECT_THAT(walk.positions(), ElementsAre(0, 1, 3));
  walk.Layer({0.1, 1, 9, 3});  // Accumulated: 1 has 4, 3 has 5.
  EXPECT_THAT(walk.positions(), ElementsAre(0, 3));
  walk.Layer({0, 0, 0, 9});
  EXPECT_THAT(walk.positions(), ElementsAre(0));
}

TEST(SpattenTokens, ImportanceIsCarriedOverLayers) {
  const auto policy = Make("spatten:keeps=1/1/0.5/0.5,protect=none");
  Walk walk(*policy, kShape, 4);
  walk.Layer({10, 0, 0, 9});
  walk.Layer({0, 4, 5, 0});
  EXPECT_THAT(walk.positions(), ElementsAre(0, 3));
}

TEST(SpattenTokens, EqualImportanceKeepsTheFirst) {
  const auto policy = Make("spatten:keeps=1/0.5/0.5/0.5,protect=none");
  Walk walk(*policy, kShape, 6);
  walk.Layer({1, 1, 1, 1, 1, 1});
  EXPECT_THAT(walk.positions(), ElementsAre(0, 1, 2));
}

TEST(SpattenTokens, ProtectionIsByKeyAndByModel) {
  const std::vector<double> sums = {0, 0, 5, 5, 5, 0};
  const auto kept = [&](std::string_view text, const std::vector<int32_t>& model) {
    const auto policy = Make(text);
    Walk walk(*policy, kShape, 6, model);
    walk.Layer(sums);
    return walk.positions();
  };
  EXPECT_THAT(kept("spatten:keeps=1/0.5/0.5/0.5", {0, 5}), ElementsAre(0, 2, 5));
  EXPECT_THAT(kept("spatten:keeps=1/0.5/0.5/0.5,protect=none", {0, 5}), ElementsAre(2, 3, 4));
  EXPECT_THAT(kept("spatten:keeps=1/0.5/0.5/0.5,protect=none,first=2", {0, 5}),
              ElementsAre(0, 1, 2));
  // More protected than the share allows: all of them stay, nobody else.
  EXPECT_THAT(kept("spatten:keeps=1/0.2/0.2/0.2,first=3", {0, 5}), ElementsAre(0, 1, 2, 5));
  EXPECT_THAT(kept("spatten:keeps=1/0.2/0.2/0.2,first=1000000", {0}),
              ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST(SpattenTokens, OneTokenAlwaysStays) {
  const auto policy = Make("spatten:final=0.01,protect=none");
  Walk walk(*policy, kShape, 1, {});
  for (int l = 0; l < 4; ++l) walk.Layer({1});
  EXPECT_THAT(walk.positions(), ElementsAre(0));
}

TEST(SpattenTokens, NanImportanceIsDroppedFirst) {
  const auto policy = Make("spatten:keeps=1/0.5/0.5/0.5,protect=none");
  Walk walk(*policy, kShape, 4, {});
  walk.Layer({std::nan(""), 0, std::nan(""), 1});
  EXPECT_THAT(walk.positions(), ElementsAre(1, 3));
}

TEST(SpattenTokens, StatisticsAreWantedOnlyWhileTheyDecide) {
  const auto policy = Make("spatten:keeps=1/1/0.5/0.5");
  Walk walk(*policy, kShape, 4);
  for (const bool wanted : {true, true, false, false}) {
    walk.Layer({1, 1, 1, 1});
    EXPECT_EQ(walk.plan().wanted.column_sums, wanted);
    EXPECT_FALSE(walk.plan().wanted.head_l1);
  }
}

TEST(SpattenHeads, DropsTheWeakestByHand) {
  // Four layers: two untouched, then 0.75 and 0.5.
  const auto policy = Make("spatten:heads=0.5");
  Walk walk(*policy, kShape, 3);
  const std::vector<double> sums = {1, 1, 1};
  walk.Layer(sums, {4, 1, 2, 3});
  EXPECT_THAT(walk.heads(), ElementsAre(0, 1, 2, 3));
  walk.Layer(sums, {0, 2, 0, 0});  // 4, 3, 2, 3
  EXPECT_THAT(walk.heads(), ElementsAre(0, 1, 3));
  walk.Layer(sums, {0, 0, 0, 1});  // 4, 3, -, 4
  EXPECT_THAT(walk.heads(), ElementsAre(0, 3));
  EXPECT_THAT(walk.positions(), ElementsAre(0, 1, 2));
}

TEST(SpattenHeads, HeadsThatShareKeysFallTogether) {
  PolicyShape shape = kShape;
  shape.kv_heads = 2;
  const auto policy = Make("spatten:heads=0.5", shape);
  Walk walk(*policy, shape, 2);
  walk.Layer({1, 1}, {5, 0, 3, 3});
  walk.Layer({1, 1}, {0, 0, 0, 0});
  // floor(2 * 0.75) = 1 group: the second has 6 against 5.
  EXPECT_THAT(walk.heads(), ElementsAre(2, 3));
}

TEST(SpattenRules, GoIntoEveryPlan) {
  const auto policy = Make("spatten:values=0.3,bits=6/4,refetch=0.05");
  Walk walk(*policy, kShape, 4);
  for (int l = 0; l < 4; ++l) {
    walk.Layer({1, 1, 1, 1});
    EXPECT_EQ(walk.plan().value_keep, 0.3);
    EXPECT_EQ(walk.plan().quantization, (ProgressiveQuantization{6, 4, 0.05}));
  }
  EXPECT_FALSE(policy->is_dense());
}

TEST(SpattenControls, InverseKeepsTheLeastAttended) {
  const auto policy = Make("spatten:keeps=1/0.5/0.5/0.5,importance=inverse,protect=none");
  Walk walk(*policy, kShape, 4, {});
  walk.Layer({4, 1, 3, 2});
  EXPECT_THAT(walk.positions(), ElementsAre(1, 3));
}

TEST(SpattenControls, RandomDependsOnTheSeedAlone) {
  const auto kept = [](int seed, const std::vector<double>& sums) {
    const auto policy =
        Make("spatten:keeps=1/0.5/0.5/0.5,importance=random,seed=" + std::to_string(seed));
    Walk walk(*policy, kShape, 40);
    walk.Layer(sums);
    EXPECT_FALSE(walk.plan().wanted.column_sums);
    return walk.positions();
  };
  const std::vector<double> flat(40, 1.0);
  std::vector<double> steep(40);
  std::iota(steep.begin(), steep.end(), 0.0);
  std::set<std::vector<int32_t>> different;
  for (int seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(kept(seed, flat), kept(seed, steep));
    EXPECT_EQ(kept(seed, flat).size(), 20u);
    EXPECT_EQ(kept(seed, flat).front(), 0);
    different.insert(kept(seed, flat));
  }
  EXPECT_EQ(different.size(), 20u);
}

TEST(SpattenControls, RandomKeepsEveryPositionEquallyOften) {
  std::vector<int> times(20);
  for (int seed = 0; seed < 1000; ++seed) {
    const auto policy = Make("spatten:keeps=1/0.5/0.5/0.5,protect=none,importance=random,seed=" +
                             std::to_string(seed));
    Walk walk(*policy, kShape, 20, {});
    walk.Layer(std::vector<double>(20, 1.0));
    for (const int32_t p : walk.positions()) ++times[p];
  }
  // 500 each, standard deviation 16.
  for (const int n : times) EXPECT_NEAR(n, 500, 80);
}

TEST(Spatten, HoldsItsInvariantsOnRandomRuns) {
  std::mt19937 random(11);
  const char* texts[] = {"spatten:final=0.3", "spatten:keep=0.5,heads=0.4", "spatten:final=0.01",
                         "spatten:keep=0.8,schedule=flat,first=2,importance=inverse",
                         "spatten:keep=0.45,heads=0.3,importance=random,seed=4"};
  PolicyShape shape = kShape;
  shape.layers = 12;
  shape.heads = shape.kv_heads = 12;
  for (int round = 0; round < 200; ++round) {
    const auto policy = Make(texts[round % 5], shape);
    const auto tokens = static_cast<int32_t>(1 + random() % 60);
    std::vector<int32_t> model = {0};
    if (random() % 2 == 0 && tokens > 1) model.push_back(tokens - 1);
    Walk walk(*policy, shape, tokens, model);
    std::vector<int32_t> before = walk.positions();
    for (int32_t l = 0; l < 12; ++l) {
      std::vector<double> sums(tokens);
      std::vector<double> l1(12);
      for (double& x : sums) x = static_cast<double>(random() % 5);
      for (double& x : l1) x = static_cast<double>(random() % 5);
      const std::vector<int32_t> heads_before = walk.heads();
      walk.Layer(sums, l1);
      const std::vector<int32_t>& now = walk.positions();
      EXPECT_TRUE(std::ranges::is_sorted(now));
      EXPECT_TRUE(std::ranges::includes(before, now));
      EXPECT_TRUE(std::ranges::includes(now, model));
      EXPECT_TRUE(std::ranges::is_sorted(walk.heads()));
      EXPECT_TRUE(std::ranges::includes(heads_before, walk.heads()));
      EXPECT_FALSE(walk.heads().empty());
      EXPECT_TRUE(l > 0 || now.size() == before.size());  // Two untouched layers.
      before = now;
    }
  }
}

TEST(Spatten, KeepingAllIsDense) {
  for (const char* text : {"spatten", "spatten:final=1", "spatten:keep=1,heads=1,values=1",
                           "spatten:keeps=1/1/1/1", "spatten:importance=random"}) {
    const auto policy = Make(text);
    EXPECT_TRUE(policy->is_dense()) << text;
    EXPECT_EQ(policy->CostShare(100), 1.0) << text;
    Walk walk(*policy, kShape, 5);
    for (int l = 0; l < 4; ++l) {
      walk.Layer({1, 2, 3, 4, 5});
      SequencePlan expected;
      expected.heads = Numbers(4);
      EXPECT_EQ(walk.plan(), expected);
    }
    EXPECT_EQ(walk.positions().size(), 5u);
  }
  EXPECT_FALSE(Make("spatten:final=0.99")->is_dense());
  EXPECT_FALSE(Make("spatten:heads=0.5")->is_dense());
  EXPECT_FALSE(Make("spatten:bits=8/4")->is_dense());
}

TEST(Spatten, CostFollowsTheSchedule) {
  PolicyShape shape = kShape;
  shape.hidden_size = 768;
  shape.ffn_size = 3072;
  shape.heads = shape.kv_heads = 12;
  shape.head_dim = 64;
  shape.layers = 12;
  double last = 0.0;
  for (const char* keep : {"0.3", "0.5", "0.7", "0.9", "1"}) {
    const double share = Make(std::string("spatten:keep=") + keep, shape)->CostShare(384);
    EXPECT_GT(share, last);
    // Attention shrinks with the square, the rest with the share.
    EXPECT_LE(share, std::stod(keep) + 0.01);
    last = share;
  }
  EXPECT_LT(Make("spatten:heads=0.3", shape)->CostShare(384), 1.0);
  EXPECT_EQ(Make("spatten:keep=0.5", shape)->CostShare(0), 1.0);
}

TEST(Spatten, RefusesListsThatDoNotFitTheModel) {
  const auto error = [](std::string_view text) {
    return Message(Policy::Parse(text, kShape).status());
  };
  EXPECT_THAT(error("spatten:keeps=1/0.5"), HasSubstr("2 shares; the model has 4 layers"));
  EXPECT_THAT(error("spatten:keeps=0.9/0.8/0.5/0.5"), HasSubstr("keeps begins with 0.9"));
  EXPECT_THAT(error("spatten:keeps=1/0.5/0.6/0.5"), HasSubstr("layer 2 has 0.6 after 0.5"));
  EXPECT_THAT(error("spatten:keep=0.2"), HasSubstr("0.25"));
}

}  // namespace
}  // namespace thresher
