#include "backend/sparsity/spatten_cache.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/sparsity/policy.h"
#include "backend/tensor/status.h"
#include "tests/sparsity/cache_walk.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using testing::CacheWalk;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

PolicyShape Shape(int32_t layers, int32_t kv_heads = 1) {
  return {.layers = layers,
          .heads = 2 * kv_heads,
          .kv_heads = kv_heads,
          .head_dim = 8,
          .hidden_size = 16 * kv_heads,
          .ffn_size = 64 * kv_heads,
          .causal = true};
}

std::shared_ptr<const Policy> Make(std::string_view text, const PolicyShape& shape) {
  auto policy = Policy::Parse(text, shape);
  EXPECT_TRUE(policy.ok()) << text << ": " << Message(policy.status());
  return policy.ok() ? *policy : nullptr;
}

std::string Refusal(std::string_view text, const PolicyShape& shape) {
  const auto policy = Policy::Parse(text, shape);
  EXPECT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return Message(policy.status());
}

std::vector<int32_t> Reads(CacheRun& run, int32_t layer, int32_t slots) {
  std::vector<int32_t> reads;
  run.ChooseReads(layer, slots, &reads);
  return reads;
}

/// A prompt of as many tokens as there are sums, in a model of one KV head, and a token more.
std::unique_ptr<CacheRun> AfterPrompt(const Policy& policy, std::span<const int64_t> sums) {
  auto run = policy.StartCache();
  const auto tokens = static_cast<int32_t>(sums.size());
  run->AddSums(0, tokens, sums);
  std::vector<std::vector<int32_t>> survivors;
  run->EndPrompt(tokens, &survivors);
  EXPECT_THAT(survivors, IsEmpty());
  std::vector<int32_t> victims;
  run->PlaceNew(tokens, &victims);
  EXPECT_THAT(victims, IsEmpty());
  return run;
}

TEST(SpattenCache, ReadsTheMostImportantOfThePrompt) {
  const auto policy = Make("spatten:keeps=0.5/0.5,rescale=1,protect=none", Shape(2));
  const auto run = AfterPrompt(*policy, std::vector<int64_t>{1, 9, 2, 8, 3, 7, 4});
  // Half of 8 slots, the newest among them.
  EXPECT_THAT(Reads(*run, 0, 8), ElementsAre(1, 3, 5, 7));
}

TEST(SpattenCache, TheFirstTokenAndTheNewestCountInsideTheShare) {
  const auto policy = Make("spatten:keeps=0.5/0.25,rescale=1", Shape(2));
  const auto run = AfterPrompt(*policy, std::vector<int64_t>{1, 9, 2, 8, 3, 7, 4});
  EXPECT_THAT(Reads(*run, 0, 8), ElementsAre(0, 1, 3, 7));
  EXPECT_THAT(Reads(*run, 1, 8), ElementsAre(0, 7));
}

TEST(SpattenCache, FirstTokensAreReadThoughTheShareIsLess) {
  const auto policy = Make("spatten:keeps=0.5/0.01,rescale=1,first=3", Shape(2));
  const auto run = AfterPrompt(*policy, std::vector<int64_t>{1, 9, 2, 8, 3, 7, 4});
  EXPECT_THAT(Reads(*run, 0, 8), ElementsAre(0, 1, 2, 7));
  EXPECT_THAT(Reads(*run, 1, 8), ElementsAre(0, 1, 2, 7));
  EXPECT_THAT(
      Reads(*Make("spatten:keeps=0.5/0.01,rescale=1,first=1000", Shape(2))->StartCache(), 0, 8),
      IsEmpty());
}

TEST(SpattenCache, CountsRoundDown) {
  const auto policy = Make("spatten:keeps=0.7/0.69,rescale=1,protect=none", Shape(2));
  const auto run = policy->StartCache();
  EXPECT_EQ(Reads(*run, 0, 10).size(), 7u);  // 0.7 is a little below 7 / 10.
  EXPECT_EQ(Reads(*run, 1, 10).size(), 6u);
  EXPECT_EQ(Reads(*run, 0, 1).size(), 0u);  // The only one: all.
}

TEST(SpattenCache, EqualsGoInOrder) {
  const auto policy = Make("spatten:keeps=0.5/0.5,rescale=1,protect=none", Shape(2));
  const auto run = AfterPrompt(*policy, std::vector<int64_t>{5, 5, 6, 5, 5, 5, 5});
  EXPECT_THAT(Reads(*run, 0, 8), ElementsAre(0, 1, 2, 7));
}

TEST(SpattenCache, ALayersRowCountsFromTheNextLayerOn) {
  const auto policy = Make("spatten:keeps=1/0.5,rescale=1,protect=none", Shape(2));
  const auto run = AfterPrompt(*policy, std::vector<int64_t>{4, 3, 2});
  EXPECT_THAT(Reads(*run, 0, 4), IsEmpty());
  run->AddSums(0, 4, std::vector<int64_t>{0, 0, 9, 0});
  EXPECT_THAT(Reads(*run, 1, 4), ElementsAre(2, 3));
}

TEST(SpattenCache, WhatIsLeftOutInOneStepComesBackInTheNext) {
  const auto policy = Make("spatten:keeps=0.75/0.5,rescale=1,protect=none", Shape(2));
  const auto run = AfterPrompt(*policy, std::vector<int64_t>{5, 3, 4});
  EXPECT_THAT(Reads(*run, 0, 4), ElementsAre(0, 2, 3));
  run->AddSums(0, 4, std::vector<int64_t>{0, 0, 8});
  // Not slot 1, however important: this step's layer before has not read it.
  run->AddSums(0, 4, std::vector<int64_t>{0, 9, 0, 0});
  EXPECT_THAT(Reads(*run, 1, 4), ElementsAre(0, 3));
  std::vector<int32_t> victims;
  run->PlaceNew(4, &victims);
  EXPECT_THAT(Reads(*run, 0, 5), ElementsAre(1, 3, 4));
}

TEST(SpattenCache, KvHeadsAreSummed) {
  const auto policy = Make("spatten:keeps=0.5,rescale=1,protect=none", Shape(1, 2));
  const auto run = policy->StartCache();
  run->AddSums(0, 3, std::vector<int64_t>{5, 0, 3, /*second head*/ 0, 2, 3});
  EXPECT_THAT(Reads(*run, 0, 4), ElementsAre(2, 3));
}

TEST(SpattenCache, ControlsChooseByChanceOrTheWrongWayRound) {
  const std::vector<int64_t> sums = {1, 9, 2, 8, 3, 7, 4};
  const auto inverse =
      Make("spatten:keeps=0.5,rescale=1,protect=none,importance=inverse", Shape(1));
  EXPECT_THAT(Reads(*AfterPrompt(*inverse, sums), 0, 8), ElementsAre(0, 2, 4, 7));

  const auto chance = Make("spatten:keeps=0.1,rescale=1,importance=random,seed=1", Shape(1));
  EXPECT_FALSE(chance->StartCache()->WantsSums(0));
  EXPECT_FALSE(chance->cache_rules().wants_prompt_sums);
  const auto again = Make("spatten:keeps=0.1,rescale=1,importance=random,seed=1", Shape(1));
  const auto other = Make("spatten:keeps=0.1,rescale=1,importance=random,seed=2", Shape(1));
  const std::vector<int32_t> reads = Reads(*chance->StartCache(), 0, 200);
  EXPECT_EQ(reads.size(), 20u);
  EXPECT_EQ(reads, Reads(*again->StartCache(), 0, 200));
  EXPECT_NE(reads, Reads(*other->StartCache(), 0, 200));
}

TEST(SpattenCache, RulesSayWhatTheDeviceDoes) {
  const CacheRules rules =
      Make("spatten:keep=0.5,values=0.3,bits=6/4,refetch=0.05", Shape(4))->cache_rules();
  EXPECT_EQ(rules.planes, (KeyPlanes{.msb_bits = 6, .lsb_bits = 4}));
  EXPECT_EQ(rules.refetch_threshold, 0.05);
  EXPECT_EQ(rules.value_keep, 0.3);
  EXPECT_TRUE(rules.wants_prompt_sums);
  EXPECT_FALSE(rules.evicts);
  EXPECT_FALSE(rules.rotate_on_read);
  // Nothing is ranked, so that a prompt may come from another's cache.
  EXPECT_FALSE(Make("spatten:values=0.3", Shape(4))->cache_rules().wants_prompt_sums);
}

TEST(SpattenCache, KeepingAllIsDense) {
  const auto policy = Make("spatten", Shape(4));
  EXPECT_TRUE(policy->is_dense());
  EXPECT_EQ(policy->CostShare(100), 1.0);
  EXPECT_THAT(Reads(*policy->StartCache(), 3, 100), IsEmpty());
  for (const char* text : {"spatten:final=0.9", "spatten:values=0.9", "spatten:bits=8/4"}) {
    EXPECT_FALSE(Make(text, Shape(4))->is_dense()) << text;
  }
}

TEST(SpattenCache, CostIsTheAttentionThatIsLeft) {
  // 4 layers x 2 heads of 8: linear work 2*16*8*(2+1) + 2*16*64, attention 2*1000*2*8.
  const double linear = 2.0 * 16 * 8 * 3 + 16 * 64 * 2;
  const double attention = 2.0 * 1000 * 2 * 8;
  EXPECT_DOUBLE_EQ(Make("spatten:keeps=0.5/0.5/0.25/0.25,rescale=1", Shape(4))->CostShare(1000),
                   (linear + attention * 0.375) / (linear + attention));
  EXPECT_DOUBLE_EQ(Make("spatten:values=0.2", Shape(4))->CostShare(1000),
                   (linear + attention * 0.6) / (linear + attention));
}

TEST(SpattenCache, ImportanceFadesWithEachToken) {
  // One layer, one head. The prompt's four tokens have 8, 4, 2 and 1; two of five are read.
  const auto policy = Make("spatten:keeps=0.4,protect=none,rescale=0.5", Shape(1, 1));
  const auto run = policy->StartCache();
  run->AddSums(0, 4, std::vector<int64_t>{8, 4, 2, 1});
  EXPECT_THAT(Reads(*run, 0, 5), ElementsAre(0, 4));  // 4, 2, 1, 0 and the newest.
  run->AddSums(0, 5, std::vector<int64_t>{0, 0, 0, 6, 0});
  EXPECT_THAT(Reads(*run, 0, 6), ElementsAre(3, 5));  // 2, 1, 0, 3, 0: token 3 has overtaken 0.
}

TEST(SpattenCache, RecentTokensAreReadWhateverTheirImportance) {
  const auto policy = Make("spatten:keeps=0.5,protect=none,recent=3", Shape(1, 1));
  const auto run = policy->StartCache();
  run->AddSums(0, 7, std::vector<int64_t>{80, 40, 20, 10, 5, 0, 0});
  EXPECT_THAT(Reads(*run, 0, 8), ElementsAre(0, 5, 6, 7));
  // Never more than the share has room for.
  const auto narrow = Make("spatten:keeps=0.25,first=1,recent=9", Shape(1, 1));
  EXPECT_THAT(Reads(*narrow->StartCache(), 0, 8), ElementsAre(0, 7));
}

TEST(SpattenCache, WhatADecoderCannotDoIsRefused) {
  EXPECT_THAT(Refusal("spatten:heads=0.5", Shape(4)),
              AllOf(HasSubstr("heads=0.5"), HasSubstr("for encoders")));
  EXPECT_THAT(Refusal("spatten:bits=12/4", Shape(4)),
              AllOf(HasSubstr("bits=12/4"), HasSubstr("at most 8 bits")));
  EXPECT_THAT(Refusal("spatten:keeps=0.5/0.6,rescale=1", Shape(2)),
              HasSubstr("layer 1 has 0.6 after 0.5"));
  EXPECT_THAT(Refusal("spatten:keeps=0.5,rescale=1", Shape(2)),
              HasSubstr("1 shares; the model has 2"));
  PolicyShape encoder = Shape(2);
  encoder.causal = false;
  EXPECT_THAT(Refusal("spatten:keeps=0.9/0.5,rescale=1", encoder),
              HasSubstr("keeps begins with 0.9"));
  EXPECT_THAT(Refusal("spatten:rescale=0.5", encoder), HasSubstr("for decoders"));
  EXPECT_THAT(Refusal("spatten:recent=3", encoder), HasSubstr("for decoders"));
}

TEST(SpattenCache, HoldsItsPromisesOnRandomSums) {
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    const PolicyShape shape = Shape(4, 1 + round % 3);
    const auto first = static_cast<int32_t>(random() % 5);
    const std::vector<double> keeps = {0.9, 0.5, 0.5, 0.2};
    const auto policy =
        Make("spatten:keeps=0.9/0.5/0.5/0.2,rescale=1,first=" + std::to_string(first), shape);
    const auto prompt = static_cast<int32_t>(1 + random() % 50);
    const auto cut = static_cast<int32_t>(random() % prompt);
    CacheWalk whole(*policy, shape, round);
    CacheWalk cuts(*policy, shape, round);
    ASSERT_TRUE(whole.Prompt(std::vector<int32_t>{prompt}).ok());
    std::vector<int32_t> chunks = {prompt - cut};
    for (int32_t t = 0; t < cut; ++t) chunks.push_back(1);
    ASSERT_TRUE(cuts.Prompt(chunks).ok());
    for (int step = 0; step < 30; ++step) {
      ASSERT_TRUE(whole.Step().ok());
      ASSERT_TRUE(cuts.Step().ok());
      std::vector<int32_t> before(whole.slots());
      std::iota(before.begin(), before.end(), 0);
      for (int32_t layer = 0; layer < shape.layers; ++layer) {
        EXPECT_EQ(whole.reads(layer), cuts.reads(layer));
        std::vector<int32_t> reads = whole.reads(layer);
        if (reads.empty()) reads = before;
        const int32_t kept = std::min(whole.slots(), std::max(first, 1) + 1);
        EXPECT_EQ(static_cast<int32_t>(reads.size()),
                  std::max(KeepFloor(whole.slots(), keeps[layer]), kept));
        EXPECT_TRUE(std::ranges::includes(before, reads)) << "not of the layer before";
        for (int32_t s = 0; s < kept - 1; ++s) EXPECT_EQ(reads[s], s);
        EXPECT_EQ(reads.back(), whole.slots() - 1);
        before = reads;
      }
    }
  }
}

/// What a released trace says of one layer of one generated token, the same for all heads.
struct TraceLayer {
  int32_t length = 0;
  int32_t keys = 0;
  int32_t values = 0;
  bool chooses = false;  // After its last head the keys are chosen again.
};

std::filesystem::path TracePath() {
  return testing::SharedPath("golden/spatten/gpt2-small-wikitext2-per8.csv");
}

/// [token][layer].
std::map<int32_t, std::map<int32_t, TraceLayer>> ReadTrace() {
  std::ifstream file(TracePath());
  std::map<int32_t, std::map<int32_t, TraceLayer>> trace;
  std::vector<std::string> columns;
  for (std::string line; std::getline(file, line);) {
    std::vector<std::string> cells;
    std::istringstream stream(line);
    for (std::string cell; std::getline(stream, cell, ',');) cells.push_back(cell);
    if (columns.empty()) {
      columns = cells;
      continue;
    }
    if (cells.size() != columns.size()) continue;  // The last line names the configuration.
    std::map<std::string, std::string> row;
    for (size_t c = 0; c < cells.size(); ++c) row[columns[c]] = cells[c];
    TraceLayer& layer = trace[std::stoi(row["iteration_id"])][std::stoi(row["layer_id"])];
    layer = {.length = std::stoi(row["sentence_length_L"]),
             .keys = std::stoi(row["key_fetch_num"]),
             .values = std::stoi(row["value_fetch_num"]),
             .chooses = layer.chooses || row["if_topk"] == "True"};
  }
  return trace;
}

TEST(SpattenCache, ReadsAsManyKeysAsTheReleasedTraces) {
  THRESHER_REQUIRE_SHARED(TracePath());
  auto trace = ReadTrace();
  ASSERT_EQ(trace.size(), 32u);
  const PolicyShape shape = Shape(12);
  const auto policy = Make(
      "spatten:keeps=0.9/0.7/0.2/0.2/0.2/0.2/0.1/0.1/0.1/0.1/0.1/0.1,rescale=1,values=0.2", shape);
  CacheWalk walk(*policy, shape, 7);
  ASSERT_TRUE(walk.Prompt(std::vector<int32_t>{992}).ok());
  for (auto& [token, layers] : trace) {
    ASSERT_EQ(layers.size(), 12u);
    ASSERT_TRUE(walk.Step().ok());
    const bool last = token == 31;
    for (auto& [l, layer] : layers) {
      ASSERT_EQ(layer.length, walk.slots());
      const auto keys = static_cast<int32_t>(walk.reads(l).size());
      if (last) {
        EXPECT_EQ(keys, layer.keys) << "layer " << l;
        // Theirs round down, ours up.
        const int64_t values = KeepCount(keys, policy->cache_rules().value_keep);
        EXPECT_EQ(values - layer.values, 1) << "layer " << l;
      } else if (token > 0) {
        // Theirs are those of the final length all along.
        EXPECT_EQ(layer.keys, trace[31][l].keys);
        EXPECT_LE(keys, layer.keys);
        EXPECT_GE(keys, layer.keys * layer.length / 1024 - 1);
      } else {
        EXPECT_EQ(layer.keys, layer.length);
        EXPECT_LT(keys, layer.length);
      }
      // The set changes where theirs does; after the last layer all come back.
      if (l + 1 < 12 && token > 0) {
        EXPECT_EQ(walk.reads(l) != walk.reads(l + 1), layer.chooses) << "layer " << l;
      }
    }
  }
}

}  // namespace
}  // namespace thresher
