#include "backend/sparsity/snapkv.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "backend/sparsity/policy.h"
#include "backend/tensor/status.h"
#include "tests/sparsity/cache_walk.h"

namespace thresher {
namespace {

using testing::CacheWalk;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Survivors = std::vector<std::vector<int32_t>>;

PolicyShape Shape(int32_t layers, int32_t kv_heads) {
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

/// What a prompt keeps in a model of one layer and one KV head.
Survivors After(std::string_view text, const std::vector<int64_t>& sums) {
  const auto policy = Make(text, Shape(1, 1));
  const auto run = policy->StartCache();
  const auto tokens = static_cast<int32_t>(sums.size());
  run->AddSums(0, tokens, sums);
  Survivors survivors;
  run->EndPrompt(tokens, &survivors);
  return survivors;
}

std::string Refusal(std::string_view text) {
  const auto policy = Policy::Parse(text, Shape(1, 1));
  EXPECT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return Message(policy.status());
}

TEST(SnapKv, RulesSayThatThePromptsLastRowsVoteAndTokensLeave) {
  const auto policy = Make("snapkv:keep=0.5,window=12", Shape(2, 2));
  EXPECT_EQ(policy->name(), "snapkv");
  EXPECT_EQ(policy->text(), "snapkv:keep=0.5,window=12,pool=5,pooling=avg,first=0");
  EXPECT_EQ(Make("snapkv", Shape(1, 1))->text(),
            "snapkv:capacity=2048,window=32,pool=5,pooling=avg,first=0");
  EXPECT_TRUE(policy->cache_rules().evicts);
  EXPECT_TRUE(policy->cache_rules().wants_prompt_sums);
  EXPECT_EQ(policy->cache_rules().prompt_sum_rows, 12);
  EXPECT_FALSE(policy->is_dense());
  EXPECT_TRUE(Make("snapkv:keep=1", Shape(2, 2))->is_dense());
}

TEST(SnapKv, SumsAreWantedOfThePromptAlone) {
  const auto policy = Make("snapkv:keep=0.5,window=2", Shape(1, 1));
  const auto run = policy->StartCache();
  EXPECT_TRUE(run->WantsSums(0));
  Survivors survivors;
  run->EndPrompt(1, &survivors);
  EXPECT_FALSE(run->WantsSums(0));
}

TEST(SnapKv, TheWindowStaysAndBeforeItWhatIsVotedFor) {
  // Without neighbours: 3 of the 8 before the window of 2, by their own votes.
  EXPECT_THAT(After("snapkv:keep=0.5,window=2,pool=1", {0, 9, 1, 1, 8, 1, 1, 7, 0, 0}),
              ElementsAre(ElementsAre(1, 4, 7, 8, 9)));
  EXPECT_THAT(After("snapkv:keep=0.5,window=2,pool=1,first=1", {0, 9, 1, 1, 8, 1, 1, 7, 0, 0}),
              ElementsAre(ElementsAre(0, 1, 4, 8, 9)));
  EXPECT_THAT(After("snapkv:capacity=4,window=2,pool=1", {0, 9, 1, 1, 8, 1, 1, 7, 0, 0}),
              ElementsAre(ElementsAre(1, 4, 8, 9)));
}

TEST(SnapKv, NeighboursShareTheirVotes) {
  // Sums of three: 4 4 4 10 15 16 11 2, beyond the ends nothing, the window's own not among them.
  const std::vector<int64_t> sums = {4, 0, 0, 4, 6, 5, 5, 1, 99, 99};
  EXPECT_THAT(After("snapkv:keep=0.5,window=2,pool=3", {4, 0, 0, 4, 6, 5, 0, 2, 99, 99}),
              ElementsAre(ElementsAre(3, 4, 5, 8, 9)));
  // The largest of three: 4 4 4 6 6 6 5 5; of equals the first.
  EXPECT_THAT(After("snapkv:keep=0.4,window=2,pool=3,pooling=max", sums),
              ElementsAre(ElementsAre(3, 4, 8, 9)));
  EXPECT_THAT(After("snapkv:keep=0.6,window=2,pool=3,pooling=max", sums),
              ElementsAre(ElementsAre(3, 4, 5, 6, 8, 9)));
  // A pool wider than the prompt: all votes are the same.
  EXPECT_THAT(After("snapkv:keep=0.4,window=2,pool=255", sums),
              ElementsAre(ElementsAre(0, 1, 8, 9)));
}

TEST(SnapKv, EachHeadKeepsItsOwn) {
  const auto policy = Make("snapkv:keep=0.5,window=1,pool=1", Shape(1, 2));
  const auto run = policy->StartCache();
  run->AddSums(0, 4, std::vector<int64_t>{1, 5, 0, 0, /*second head*/ 1, 0, 5, 0});
  Survivors survivors;
  run->EndPrompt(4, &survivors);
  EXPECT_THAT(survivors, ElementsAre(ElementsAre(1, 3), ElementsAre(2, 3)));
}

TEST(SnapKv, ShortPromptsKeepAll) {
  EXPECT_THAT(After("snapkv:keep=0.1,window=4,pool=1", {1, 2, 3}), IsEmpty());
  EXPECT_THAT(After("snapkv:keep=0.1,window=4,pool=1", {1, 2, 3, 4}), IsEmpty());
  EXPECT_THAT(After("snapkv:keep=0.1,window=4,pool=1,first=2", {1, 2, 3, 4, 5}), IsEmpty());
  EXPECT_THAT(After("snapkv:keep=0.1,window=4,pool=1", {1, 2, 3, 4, 5}),
              ElementsAre(ElementsAre(1, 2, 3, 4)));
}

TEST(SnapKv, WhatIsGeneratedStays) {
  const auto policy = Make("snapkv:keep=0.5,window=2", Shape(1, 1));
  EXPECT_EQ(policy->CacheSlots(10, 10), 5);
  EXPECT_EQ(policy->CacheSlots(10, 30), 25);
  EXPECT_EQ(policy->CacheSlots(1, 30), 30);
  EXPECT_EQ(Make("snapkv:capacity=32", Shape(1, 1))->CacheSlots(100, 130), 62);
}

TEST(SnapKv, SaysWhatIsWrong) {
  EXPECT_THAT(Refusal("snapkv:pool=4"), HasSubstr("snapkv: pool=4: must be odd"));
  EXPECT_THAT(Refusal("snapkv:capacity=8"), HasSubstr("snapkv: capacity=8: less than window"));
  EXPECT_THAT(Refusal("snapkv:keep=0.5,capacity=64"), HasSubstr("keep and capacity contradict"));
  EXPECT_THAT(Refusal("snapkv:keep=0"), HasSubstr("keep"));
  EXPECT_THAT(Refusal("snapkv:window=0"), HasSubstr("window"));
  PolicyShape encoder = Shape(1, 1);
  encoder.causal = false;
  EXPECT_THAT(Message(Policy::Parse("snapkv", encoder).status()),
              HasSubstr("snapkv: needs a decoder"));
}

TEST(SnapKv, HoldsItsPromisesHoweverThePromptIsCut) {
  std::mt19937 random(7);
  for (int round = 0; round < 100; ++round) {
    const PolicyShape shape = Shape(2, 1 + round % 3);
    const auto window = static_cast<int32_t>(1 + random() % 6);
    const auto policy = Make(fmt::format("snapkv:keep=0.{},window={},pool={},pooling={},first={}",
                                         1 + random() % 9, window, 1 + 2 * (random() % 4),
                                         random() % 2 == 0 ? "avg" : "max", random() % 3),
                             shape);
    const auto prompt = static_cast<int32_t>(1 + random() % 40);
    CacheWalk whole(*policy, shape, round);
    CacheWalk cuts(*policy, shape, round);
    ASSERT_TRUE(whole.Prompt(std::vector<int32_t>{prompt}).ok());
    std::vector<int32_t> chunks;
    for (int32_t left = prompt; left > 0; left -= chunks.back()) {
      chunks.push_back(1 + static_cast<int32_t>(random() % left));
    }
    ASSERT_TRUE(cuts.Prompt(chunks).ok());
    EXPECT_EQ(whole.slots(), policy->CacheSlots(prompt, prompt));
    for (int step = 0; step < 5; ++step) {
      ASSERT_TRUE(whole.Step().ok());
      ASSERT_TRUE(cuts.Step().ok());
    }
    for (int32_t layer = 0; layer < shape.layers; ++layer) {
      for (int32_t head = 0; head < shape.kv_heads; ++head) {
        const std::vector<int32_t>& held = whole.held(layer, head);
        EXPECT_EQ(held, cuts.held(layer, head));
        for (int32_t t = std::max(0, prompt - window); t < prompt + 5; ++t) {
          EXPECT_TRUE(std::ranges::binary_search(held, t)) << t << " of " << prompt;
        }
      }
    }
  }
}

}  // namespace
}  // namespace thresher
