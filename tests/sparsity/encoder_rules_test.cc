// The encoder policies that are cascades and rules of the running attention (PoWER-BERT, LTP, ToMe,
// MNNFast, ACT) and those that search candidates in Q and K themselves (A3, routing), by hand. What
// the rules do to the attention is planned_attention_test.cc's.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string_view>
#include <vector>

#include "backend/sparsity/policy.h"
#include "backend/tensor/status.h"
#include "tests/sparsity/layer_walk.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using Walk = testing::LayerWalk;

constexpr PolicyShape kShape = {
    .layers = 3, .heads = 2, .kv_heads = 2, .head_dim = 2, .hidden_size = 4, .ffn_size = 16};

std::shared_ptr<const Policy> Make(std::string_view text, const PolicyShape& shape = kShape) {
  auto policy = Policy::Parse(text, shape);
  EXPECT_TRUE(policy.ok()) << text << ": " << Message(policy.status());
  return policy.ok() ? *policy : nullptr;
}

std::string Refusal(std::string_view text, const PolicyShape& shape = kShape) {
  const absl::Status status = Policy::Parse(text, shape).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return Message(status);
}

TEST(EncoderRules, TextsAreCompleteAndStable) {
  for (const auto& [text, canonical] : std::vector<std::pair<std::string_view, std::string_view>>{
           {"powerbert", "powerbert:final=1,protect=model"},
           {"powerbert:counts=9/5/2", "powerbert:counts=9/5/2,protect=model"},
           {"ltp", "ltp:final=0.01,protect=model"},
           {"ltp:thresholds=0/0.1/0.2,protect=none", "ltp:thresholds=0/0.1/0.2,protect=none"},
           {"tome:merge=8", "tome:merge=8,protect=model"},
           {"mnnfast", "mnnfast:threshold=0"},
           {"act", "act:alpha=5,beta=0.4,first=2"},
           {"a3:threshold=0.2", "a3:setting=conservative,threshold=0.2"},
           {"routing:keep=0.25", "routing:keep=0.25,qk=separate"},
           {"act:threshold=.1,heads=0/3", "act:threshold=0.1,beta=0.4,heads=0/3"}}) {
    const auto policy = Make(text);
    EXPECT_EQ(policy->text(), canonical);
    EXPECT_EQ(Make(policy->text())->text(), canonical);
    EXPECT_EQ(policy->name(), text.substr(0, text.find(':')));
  }
}

TEST(EncoderRules, WhatLeavesNothingOutIsDense) {
  for (const char* text :
       {"powerbert", "powerbert:keeps=1/1/1", "ltp:final=0", "ltp:thresholds=0/0/0", "tome",
        "tome:merge=0", "mnnfast", "act:first=2", "act:heads=1,beta=1", "routing:clusters=3"}) {
    EXPECT_TRUE(Make(text)->is_dense()) << text;
    EXPECT_EQ(Make(text)->CostShare(50), 1.0) << text;
  }
  for (const char* text :
       {"powerbert:final=0.9", "powerbert:counts=9/9/9", "ltp", "tome:merge=1",
        "mnnfast:threshold=0.1", "act:first=1", "act:heads=1", "a3", "routing:keep=0.5"}) {
    EXPECT_FALSE(Make(text)->is_dense()) << text;
  }
}

TEST(EncoderRules, DecodersAreRefusedWithTheReason) {
  PolicyShape decoder = kShape;
  decoder.causal = true;
  for (const char* text : {"powerbert", "ltp", "tome", "mnnfast", "act", "a3", "routing"}) {
    EXPECT_THAT(Refusal(text, decoder), HasSubstr("needs an encoder; this model is a decoder"));
  }
}

TEST(EncoderRules, ListsMustFitTheModel) {
  EXPECT_THAT(Refusal("powerbert:counts=9/5"), HasSubstr("counts has 2 numbers; the model has 3"));
  EXPECT_THAT(Refusal("powerbert:counts=9/5.5/2"), HasSubstr("5.5; expected whole numbers"));
  EXPECT_THAT(Refusal("powerbert:keeps=0.5/0.6/0.5"), HasSubstr("layer 1 has 0.6 after 0.5"));
  EXPECT_THAT(Refusal("powerbert:counts=9/5/2,final=0.5"), HasSubstr("contradict"));
  EXPECT_THAT(Refusal("ltp:thresholds=0/0.1"), HasSubstr("thresholds has 2 numbers"));
  EXPECT_THAT(Refusal("ltp:final=1.5"), HasSubstr("final='1.5': expected [0, 1]"));
  EXPECT_THAT(Refusal("act:heads=6"), HasSubstr("below 6: the model has 3 layers of 2 heads"));
  EXPECT_THAT(Refusal("act:heads=2/2"), HasSubstr("2 after 2"));
  EXPECT_THAT(Refusal("act:alpha=3,threshold=0.1"), HasSubstr("contradict"));
  EXPECT_THAT(Refusal("tome:merge=1,final=0.5"), HasSubstr("contradict"));
}

TEST(PowerBert, KeepsTheMostSignificantByHand) {
  const auto policy = Make("powerbert:counts=4/3/1");
  Walk walk(*policy, kShape, 5);
  // Less the attention to itself: -, 2, 1, 3, 4. [CLS] stays whatever it has.
  walk.Layer({.sums = {0, 3, 5, 4, 5}, .self = {0, 1, 4, 1, 1}});
  EXPECT_THAT(walk.positions(), ElementsAre(0, 1, 3, 4));
  EXPECT_TRUE(walk.decision().before_ffn);
  // Of this layer alone: what token 4 had before does not count.
  walk.Layer({.sums = {0, 3, 0, 4, 2}, .self = {0, 0, 0, 0, 0}});
  EXPECT_THAT(walk.positions(), ElementsAre(0, 1, 3));
  walk.Layer({.sums = {0, 3, 0, 4, 2}, .self = {0, 0, 0, 0, 0}});
  EXPECT_THAT(walk.positions(), ElementsAre(0));
}

TEST(PowerBert, AShortTextLosesNothingToCounts) {
  const auto policy = Make("powerbert:counts=4/4/2,protect=none");
  Walk walk(*policy, kShape, 3);
  for (const bool drops : {false, false, true}) {
    walk.Layer({.sums = {1, 2, 3}, .self = {0, 0, 0}});
    EXPECT_EQ(walk.plan().wanted.column_sums, drops);
  }
  EXPECT_THAT(walk.positions(), ElementsAre(1, 2));
}

TEST(PowerBert, ALineFallsFromOneToTheFinalShare) {
  const auto policy = Make("powerbert:final=0.4,protect=none");  // 0.8, 0.6, 0.4 of ten.
  Walk walk(*policy, kShape, 10);
  const std::vector<double> sums = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, self(10, 0.0);
  for (const size_t left : {8, 6, 4}) {
    walk.Layer({.sums = sums, .self = self});
    EXPECT_THAT(walk.positions(), SizeIs(left));
  }
  EXPECT_THAT(walk.positions(), ElementsAre(6, 7, 8, 9));
  EXPECT_LT(policy->CostShare(10), 0.8);
}

TEST(Ltp, DropsWhatIsNotAboveTheRisingThresholdByHand) {
  // 1/8, 1/4, 3/8 of the mean over two heads and as many queries as there are.
  const auto policy = Make("ltp:final=0.375");
  Walk walk(*policy, kShape, 5);
  walk.Layer({0, 1.25, 1.3, 4, 3.45});  // Of ten: 1.25 is an eighth, not above it. [CLS] stays.
  EXPECT_THAT(walk.positions(), ElementsAre(0, 2, 3, 4));
  EXPECT_TRUE(walk.decision().before_ffn);
  walk.Layer({1, 0, 1.9, 2.1, 3});  // Of eight: 2.
  EXPECT_THAT(walk.positions(), ElementsAre(0, 3, 4));
  walk.Layer({1, 0, 0, 2.25, 2.75});  // Of six: 2.25.
  EXPECT_THAT(walk.positions(), ElementsAre(0, 4));
}

TEST(Ltp, OneTokenAlwaysStays) {
  const auto policy = Make("ltp:thresholds=1/0/1,protect=none");
  Walk walk(*policy, kShape, 3);
  walk.Layer({2, 3, 1});  // All below one; the best stays.
  EXPECT_THAT(walk.positions(), ElementsAre(1));
  walk.Layer({0, 2, 0});
  EXPECT_FALSE(walk.plan().wanted.column_sums);  // A threshold of 0 asks for nothing.
  walk.Layer({0, std::nan(""), 0});
  EXPECT_THAT(walk.positions(), ElementsAre(1));
}

TEST(Tome, MergesTheMostAlikeByHand) {
  // Keys of two alike heads; directions: 0: -, 1: east, 2: east, 3: north, 4: north-east and a
  // little, 5: west. Sources are 2 and 4 ([CLS] is none), targets 1, 3 and 5.
  const float keys[6][4] = {{1, 0, 1, 0}, {1, 0, 1, 0}, {2, 0, 4, 0},
                            {0, 1, 0, 1}, {1, 2, 1, 2}, {-1, 0, -1, 0}};
  const ConstMatrix key(keys[0], 6, 4);
  const auto policy = Make("tome:merge=1");
  Walk walk(*policy, kShape, 6);
  walk.Layer({.sums = {}, .key = key});
  EXPECT_THAT(walk.decision().merges, ElementsAre(RowMerge{.from = 2, .into = 1, .share = 0.5f}));
  EXPECT_TRUE(walk.decision().before_ffn);
  EXPECT_THAT(walk.positions(), ElementsAre(0, 1, 3, 4, 5));
  EXPECT_THAT(walk.plan().token_sizes, IsEmpty());
  // Rows now: 0, 1 (of size two), 3, 4, 5. Sources 3 and 5, targets 1 and 4: north goes to 4.
  walk.Layer({.sums = {}, .key = key});
  EXPECT_THAT(walk.plan().token_sizes, ElementsAre(1, 2, 1, 1, 1));
  EXPECT_THAT(walk.decision().merges, ElementsAre(RowMerge{.from = 2, .into = 3, .share = 0.5f}));
  EXPECT_THAT(walk.positions(), ElementsAre(0, 1, 4, 5));
  // Rows 0, 1, 4, 5: source 4 (of two), targets 1 (of two) and 5: 4 goes to 1.
  walk.Layer({.sums = {}, .key = key});
  EXPECT_THAT(walk.plan().token_sizes, ElementsAre(1, 2, 2, 1));
  EXPECT_THAT(walk.decision().merges, ElementsAre(RowMerge{.from = 2, .into = 1, .share = 0.5f}));
}

TEST(Tome, SeveralIntoOneWeighByTheirSizes) {
  const float keys[5][4] = {{1, 0, 1, 0}, {1, 0, 1, 0}, {1, 0, 1, 0}, {0, 1, 0, 1}, {1, 0, 1, 0}};
  const auto policy = Make("tome:merge=2,protect=none");
  Walk walk(*policy, kShape, 5, {});
  walk.Layer({.sums = {}, .key = ConstMatrix(keys[0], 5, 4)});
  // Equals: the first two sources, 0 and 2, both into 1: x1 = (x1 + x0 + x2) / 3.
  EXPECT_THAT(walk.decision().merges,
              ElementsAre(RowMerge{.from = 0, .into = 1, .share = 0.5f},
                          RowMerge{.from = 2, .into = 1, .share = 1.0f / 3}));
  EXPECT_THAT(walk.positions(), ElementsAre(1, 3, 4));
}

TEST(Tome, NoLayerMergesMoreThanHalf) {
  const auto policy = Make("tome:merge=100");
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> keys(11 * 4);
  for (float& x : keys) x = normal(random);
  Walk walk(*policy, kShape, 11);
  const ConstMatrix key(keys.data(), 11, 4);
  for (const size_t left : {6, 4, 3}) {  // Sources: 5 of 11, 2 of 6, 1 of 4: all but [CLS].
    walk.Layer({.sums = {}, .key = key});
    EXPECT_THAT(walk.positions(), SizeIs(left));
  }
}

TEST(Tome, SharesSayHowManyAreLeft) {
  const auto policy = Make("tome:final=0.4,protect=none");
  const std::vector<float> keys(10 * 4, 1.0f);
  Walk walk(*policy, kShape, 10, {});
  const ConstMatrix key(keys.data(), 10, 4);
  for (const size_t left : {8, 6, 4}) {
    walk.Layer({.sums = {}, .key = key});
    EXPECT_THAT(walk.positions(), SizeIs(left));
  }
  EXPECT_THAT(Refusal("tome:merge=1+fact:topk=0.5"), HasSubstr("tome"));
}

TEST(MnnFast, ItsThresholdIsThePlans) {
  const auto policy = Make("mnnfast:threshold=0.05");
  Walk walk(*policy, kShape, 2);
  walk.Layer({1, 1});
  EXPECT_EQ(walk.plan().value_threshold, 0.05);
}

TEST(Act, CalibratesTheHeadsOfItsList) {
  const auto policy = Make("act:threshold=0.2,beta=0.5,heads=1/4/5");
  Walk walk(*policy, kShape, 2);
  walk.Layer({1, 1});
  EXPECT_EQ(*walk.plan().calibration,
            (AttentionCalibration{.heads = {1}, .threshold = 0.2, .beta = 0.5}));
  walk.Layer({1, 1});
  EXPECT_FALSE(walk.plan().calibration.has_value());
  walk.Layer({1, 1});
  EXPECT_THAT(walk.plan().calibration->heads, ElementsAre(0, 1));
}

TEST(Act, WithoutAListAllButTheFirstLayersAndTheLast) {
  const auto policy = Make("act:first=1,alpha=3");
  Walk walk(*policy, kShape, 2);
  walk.Layer({1, 1});
  EXPECT_FALSE(walk.plan().calibration.has_value());
  walk.Layer({1, 1});
  EXPECT_EQ(*walk.plan().calibration,
            (AttentionCalibration{.heads = {0, 1}, .threshold = 3, .relative = true, .beta = 0.4}));
  walk.Layer({1, 1});
  EXPECT_FALSE(walk.plan().calibration.has_value());
}

/// What a policy chooses from Q and K of one layer; `earlier`: candidates that a part before chose.
CandidateMask Choose(std::string_view text, const PolicyShape& shape, ConstMatrix query,
                     ConstMatrix key, const std::optional<CandidateMask>& earlier = {}) {
  const auto policy = Make(text, shape);
  const auto run = policy->Start(static_cast<int32_t>(key.rows), {});
  SequencePlan plan;
  plan.candidates = earlier;
  run->BeforeScores(0, testing::Numbers(static_cast<int32_t>(key.rows)),
                    {.query = query, .key = key, .scale = 1.0f}, nullptr, &plan);
  return *plan.candidates;
}

std::vector<int32_t> Row(const CandidateMask& mask, int32_t head, int32_t query) {
  std::vector<int32_t> keys;
  for (int32_t j = 0; j < mask.keys(); ++j) {
    if (mask.test(head, query, j)) keys.push_back(j);
  }
  return keys;
}

constexpr PolicyShape kOneHead = {
    .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .hidden_size = 2, .ffn_size = 4};

TEST(A3, SearchesGreedilyByHand) {
  // Products of query (1, -1) with the columns: 4, -3, 1, 0 and -1, 2, -5, 0. In order the largest:
  // 4 (key 0), 2 (key 1), and the smallest -5 (key 2), -3 (key 1).
  const float keys[4][2] = {{4, 1}, {-3, -2}, {1, 5}, {0, 0}};
  const float queries[4][2] = {{1, -1}, {0, 0}, {-1, 1}, {1, 0}};
  const ConstMatrix key(keys[0], 4, 2), query(queries[0], 4, 2);
  const auto rows = [&](std::string_view text, int32_t i) {
    return Row(Choose(text, kOneHead, query, key), 0, i);
  };
  // One iteration: 0 has 4, 2 has -5. Two: 1 has 2 - 3.
  EXPECT_THAT(rows("a3:iterations=0.25,threshold=0", 0), ElementsAre(0));
  EXPECT_THAT(rows("a3:iterations=0.5,threshold=0", 0), ElementsAre(0));
  // Of a query of zeros nothing is positive: the first of equals.
  EXPECT_THAT(rows("a3:iterations=0.5,threshold=0", 1), ElementsAre(0));
  // The other way round: one iteration finds key 2, two find 1 too, at 3 - 2.
  EXPECT_THAT(rows("a3:iterations=0.25,threshold=0", 2), ElementsAre(2));
  EXPECT_THAT(rows("a3:iterations=0.5,threshold=0", 2), ElementsAre(1, 2));
  // Post-scoring: scores of 1 and of 4; e^-3 is 0.0498.
  EXPECT_THAT(rows("a3:iterations=0.5,threshold=0.049", 2), ElementsAre(1, 2));
  EXPECT_THAT(rows("a3:iterations=0.5", 2), ElementsAre(2));
}

TEST(A3, WithAllIterationsCandidatesAreThePositiveScores) {
  // As many iterations as there are elements: each product is taken twice, as a large one and as a
  // small one. There are 6 keys of 1 element here, one iteration a key.
  PolicyShape shape = kOneHead;
  shape.head_dim = 1;
  const std::vector<float> keys = {0.5f, -1, 2, -0.25f, 3, -4}, queries = {1, -1, 2, -2, 0.5f, 3};
  const CandidateMask mask =
      Choose("a3:iterations=1,threshold=0", shape, ConstMatrix(queries.data(), 6, 1),
             ConstMatrix(keys.data(), 6, 1));
  for (int32_t i = 0; i < 6; ++i) {
    for (int32_t j = 0; j < 6; ++j) {
      EXPECT_EQ(mask.test(0, i, j), queries[i] * keys[j] > 0) << i << ", " << j;
    }
  }
}

TEST(Routing, QueriesMeetTheKeysOfTheirClusterByHand) {
  // Two directions, of any length; clusters of two begin with vectors 0 and, of eight, 4: key 0 and
  // query 0.
  const float keys[4][2] = {{1, 0}, {0, 2}, {3, 0.1f}, {0.1f, 1}};
  const float queries[4][2] = {{0, 1}, {5, 0}, {0.1f, 3}, {2, 0.1f}};
  const ConstMatrix key(keys[0], 4, 2), query(queries[0], 4, 2);
  const CandidateMask mask = Choose("routing:keep=0.5", kOneHead, query, key);
  EXPECT_THAT(Row(mask, 0, 0), ElementsAre(1, 3));
  EXPECT_THAT(Row(mask, 0, 1), ElementsAre(0, 2));
  EXPECT_THAT(Row(mask, 0, 2), ElementsAre(1, 3));
  EXPECT_THAT(Row(mask, 0, 3), ElementsAre(0, 2));
  // Shared: tokens go where their keys go.
  const CandidateMask shared = Choose("routing:keep=0.5,qk=shared", kOneHead, query, key);
  EXPECT_THAT(Row(shared, 0, 0), ElementsAre(0, 2));
  EXPECT_THAT(Row(shared, 0, 1), ElementsAre(1, 3));
}

TEST(SearchesInKeys, EveryQueryHasACandidateAndEarlierOnesAreOnlyNarrowed) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const int32_t rows : {1, 2, 7, 70}) {
    std::vector<float> values(static_cast<size_t>(2 * rows * 4));
    for (float& x : values) x = normal(random);
    const ConstMatrix query(values.data(), rows, 4), key(values.data() + rows * 4, rows, 4);
    CandidateMask earlier(2, rows, rows);
    for (int32_t h = 0; h < 2; ++h) {
      for (int32_t i = 0; i < rows; ++i) {
        earlier.set(h, i, static_cast<int32_t>(random() % rows));
        for (int32_t j = 0; j < rows; ++j) {
          if (random() % 3 == 0) earlier.set(h, i, j);
        }
      }
    }
    for (const char* text : {"a3", "a3:setting=approximate", "routing:keep=0.3",
                             "routing:keep=0.1,clusters=2", "routing:keep=0.000001,qk=shared"}) {
      const CandidateMask all = Choose(text, kShape, query, key);
      const CandidateMask narrowed = Choose(text, kShape, query, key, earlier);
      for (int32_t h = 0; h < 2; ++h) {
        for (int32_t i = 0; i < rows; ++i) {
          EXPECT_THAT(Row(all, h, i), Not(IsEmpty())) << text;
          EXPECT_THAT(Row(narrowed, h, i), Not(IsEmpty())) << text;
          EXPECT_THAT(Row(earlier, h, i), ::testing::IsSupersetOf(Row(narrowed, h, i))) << text;
        }
      }
    }
  }
}

TEST(SearchesInKeys, WhatIsNoNumberIsSurvived) {
  std::vector<float> values(6 * 4, 1.0f);
  values[5] = std::nanf("");
  values[9] = std::numeric_limits<float>::infinity();
  const ConstMatrix x(values.data(), 6, 4);
  for (const char* text : {"a3", "routing:keep=0.3"}) {
    const CandidateMask mask = Choose(text, kShape, x, x);
    for (int32_t i = 0; i < 6; ++i) EXPECT_THAT(Row(mask, 0, i), Not(IsEmpty())) << text;
  }
}

}  // namespace
}  // namespace thresher
