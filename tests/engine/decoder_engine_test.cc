#include "backend/engine/decoder_engine.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "backend/text/tokenizer.h"
#include "tests/engine/decoder_engine_testing.h"
#include "tests/golden/golden.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using testing::MakeDecoder;
using testing::MakeDevice;
using testing::MakePolicy;
using testing::RandomIds;
using testing::RunAlone;
using testing::RunStep;
using testing::StartText;

using Rows = std::vector<std::vector<float>>;

std::string Golden(const std::string& name) { return testing::GoldenDir(name); }

/// KV policies of every kind, at settings that leave much out of a prompt of some thirty tokens.
constexpr std::string_view kPolicies[] = {
    "",
    "spatten:keep=0.5,values=0.5",
    "spatten:final=0.3,bits=6/4,refetch=0.3",
    "sinks:first=2,recent=20",
    "h2o:heavy=0.2,recent=0.2",
    "snapkv:keep=0.4,window=5,pool=3",
    "quest:keep=0.2,page=4,whole=0",
};

class OnDevices : public ::testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<Device> device_ = MakeDevice(GetParam());
};
INSTANTIATE_TEST_SUITE_P(Device, OnDevices, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return info.param; });

TEST_P(OnDevices, GreedyTextIsTheGoldenOneToTheByte) {
  const auto directory = testing::SharedPath("models/stories260k");
  THRESHER_REQUIRE_SHARED(directory);
  const auto golden = nlohmann::json::parse(std::ifstream(directory / "generation_golden.json"));
  const auto engine = MakeDecoder(directory.string(), device_);
  const auto tokenizer = Tokenizer::Load(directory.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const int32_t bos = engine->config().bos.value();
  // `steps` counts the positions that the reference program runs, BOS's among them.
  const int32_t steps = golden["steps"].get<int32_t>();
  const Rows logits = RunAlone(*engine, std::span(&bos, 1), steps - 1, nullptr);
  const auto stream = (*tokenizer)->DecodeStream(true);
  (void)stream->Push(bos);
  std::string text;
  for (const auto& row : logits) text += stream->Push(testing::ArgMaxOf(row)).value();
  text += stream->Finish();
  EXPECT_EQ(text, golden["text"].get<std::string>());
}

TEST_P(OnDevices, AChunkedPromptHasTheSameBits) {
  const auto engine = MakeDecoder(Golden("decoder-llama3"), device_);
  const std::vector<int32_t> prompt = RandomIds(*engine, 38, 1);
  for (const std::string_view policy : kPolicies) {
    SCOPED_TRACE(policy);
    const Rows whole = RunAlone(*engine, prompt, 8, MakePolicy(*engine, policy));
    for (const size_t chunk : {1, 7, 32, 33}) {
      // Another engine, so that no page is found.
      const auto fresh = MakeDecoder(Golden("decoder-llama3"), device_);
      const Rows chunked = RunAlone(*fresh, prompt, 8, MakePolicy(*fresh, policy), chunk);
      ASSERT_EQ(chunked.back(), whole.back()) << chunk;
      ASSERT_EQ(chunked.front(), whole.front()) << chunk;
    }
  }
}

TEST_P(OnDevices, ATextHasTheSameBitsWhateverElseRuns) {
  const auto engine = MakeDecoder(Golden("decoder-gpt2"), device_);
  constexpr int32_t kSteps = 6;
  struct Case {
    std::vector<int32_t> prompt;
    std::string_view policy;
    Rows alone;
    CachedTextPtr text;
    size_t read = 0;
    Rows together;
    int32_t next = 0;
  };
  std::vector<Case> cases;
  std::mt19937 random(3);
  for (uint32_t i = 0; i < 10; ++i) {
    Case c{.prompt = RandomIds(*engine, 1 + static_cast<int32_t>(random() % 36), i),
           .policy = kPolicies[i % std::size(kPolicies)]};
    c.alone = RunAlone(*engine, c.prompt, kSteps, MakePolicy(*engine, c.policy));
    const auto length = static_cast<int32_t>(c.prompt.size());
    c.text = StartText(*engine, MakePolicy(*engine, c.policy), length, length + kSteps);
    cases.push_back(std::move(c));
  }
  // Random companies: each step some of the texts go on, prompts by random chunks.
  const auto unfinished = [](const Case& c) { return c.together.size() <= kSteps; };
  while (std::ranges::any_of(cases, unfinished)) {
    std::vector<StepPart> parts;
    std::vector<Case*> stepping;
    for (Case& c : cases) {
      if (!unfinished(c) || random() % 2 == 0) continue;
      StepPart part{.text = c.text.get(), .logits = StepPart::Logits::kLast};
      if (c.read < c.prompt.size()) {
        const size_t count = 1 + random() % (c.prompt.size() - c.read);
        part.ids = std::span(c.prompt).subspan(c.read, count);
        part.prompt_tokens = static_cast<int32_t>(c.prompt.size());
        c.read += count;
        if (c.read < c.prompt.size()) part.logits = StepPart::Logits::kNone;
      } else {
        c.next = testing::ArgMaxOf(c.together.back());
        part.ids = std::span(&c.next, 1);
      }
      parts.push_back(part);
      stepping.push_back(&c);
    }
    const absl::Status status =
        engine->Step(parts, [&](size_t part, int32_t, std::span<const float> logits) {
          stepping[part]->together.emplace_back(logits.begin(), logits.end());
        });
    ASSERT_TRUE(status.ok()) << status;
  }
  for (const Case& c : cases) {
    EXPECT_EQ(c.together, c.alone) << c.policy << " after " << c.prompt.size();
  }
}

TEST_P(OnDevices, TheCacheGivesWhatRecomputingGives) {
  for (const char* name : {"decoder-gpt2", "decoder-llama3", "decoder-opt"}) {
    SCOPED_TRACE(name);
    const auto engine = MakeDecoder(Golden(name), device_);
    std::vector<int32_t> ids = RandomIds(*engine, 5, 9);
    const Rows cached = RunAlone(*engine, ids, 20, nullptr);
    for (const auto& row : cached) {
      const Rows recomputed = RunAlone(*engine, ids, 0, nullptr);
      for (size_t i = 0; i < row.size(); ++i) ASSERT_NEAR(row[i], recomputed[0][i], 1e-4);
      ids.push_back(testing::ArgMaxOf(row));
    }
  }
}

TEST_P(OnDevices, APolicyThatLeavesNothingOutIsDense) {
  const auto engine = MakeDecoder(Golden("decoder-llama3"), device_);
  const std::vector<int32_t> prompt = RandomIds(*engine, 20, 2);
  const Rows dense = RunAlone(*engine, prompt, 10, nullptr);
  for (const std::string_view policy :
       {"dense", "spatten", "sinks:first=4,recent=40", "h2o:heavy=1,recent=1"}) {
    EXPECT_EQ(RunAlone(*engine, prompt, 10, MakePolicy(*engine, policy)), dense) << policy;
  }
}

TEST_P(OnDevices, PromptsThatBeginAlikeShareTheirPages) {
  const auto engine = MakeDecoder(Golden("decoder-llama3"), device_);
  const std::vector<int32_t> first = RandomIds(*engine, 40, 4);
  std::vector<int32_t> second = first;
  second[36] = (second[36] + 1) % engine->config().vocab_size;
  const Rows alone = RunAlone(*MakeDecoder(Golden("decoder-llama3"), device_), second, 4, nullptr);
  (void)RunAlone(*engine, first, 1, nullptr);
  const KvPool::Snapshot idle = engine->pool().snapshot();
  EXPECT_EQ(idle.used, 0);
  EXPECT_EQ(idle.reserved, 0);
  EXPECT_GT(idle.idle, 0);

  const auto start = [&](std::string_view policy) {
    auto text = engine->Start(MakePolicy(*engine, policy), {},
                              engine->CacheBytes(nullptr, 40, 44) * 4, second);
    return std::move(text).value();
  };
  const CachedTextPtr text = start("");
  ASSERT_EQ(DecoderEngine::Tokens(*text), kKvPageTokens);
  EXPECT_EQ(engine->pool().snapshot().prefix_hits, 1);
  Rows rows = RunStep(*engine, {.text = text.get(),
                                .ids = std::span(second).subspan(kKvPageTokens),
                                .prompt_tokens = static_cast<int32_t>(second.size()),
                                .logits = StepPart::Logits::kLast});
  EXPECT_EQ(rows[0], alone[0]);
  // Not where the policy must have seen the prompt, nor in another format.
  EXPECT_EQ(DecoderEngine::Tokens(*start("h2o")), 0);
  EXPECT_EQ(DecoderEngine::Tokens(*start("spatten:bits=6/4")), 0);
  EXPECT_EQ(DecoderEngine::Tokens(*start("quest:keep=0.5,whole=0")), 0);
}

TEST_P(OnDevices, BoundsAreReadAndHeldAndCounted) {
  const auto engine = MakeDecoder(Golden("decoder-llama3"), device_);
  const std::vector<int32_t> prompt = RandomIds(*engine, 30, 5);
  const CachedTextPtr text =
      StartText(*engine, MakePolicy(*engine, "quest:keep=0.1,page=4,whole=1"), 30, 31);
  (void)RunStep(*engine, {.text = text.get(), .ids = prompt, .prompt_tokens = 30});
  const int32_t id = 1;
  (void)RunStep(*engine, {.text = text.get(), .ids = std::span(&id, 1)});
  const v1::PruningReport report = DecoderEngine::Report(*text);
  const auto& config = engine->config();
  const int64_t pair = 2 * int64_t{config.head_dim} * 4 * config.kv_heads;
  // Of 31 slots in 8 pages: the newest page's 3 and those of two more; and 7 pages' bounds.
  EXPECT_EQ(report.decode().bytes().done(), (31 + (config.layers - 1) * (3 + 8 + 7)) * pair);
  EXPECT_EQ(report.decode().predicted_scores(), (config.layers - 1) * 7 * config.heads);
  // Of each page of 32 slots there are 8 bounds, each as much as a key and a value.
  EXPECT_EQ(report.kv_held().done(), 31 * config.layers * (pair + pair / 4));
  EXPECT_EQ(report.kv_held().dense(), 31 * config.layers * pair);
}

TEST(DecoderEngine, AChunkEndsWithinItsPrompt) {
  const auto engine = MakeDecoder(Golden("decoder-gpt2"), MakeDevice("reference"));
  const CachedTextPtr text = StartText(*engine, nullptr, 4, 5);
  const std::vector<int32_t> ids = RandomIds(*engine, 4, 5);
  const StepPart part = {.text = text.get(), .ids = ids, .prompt_tokens = 3};
  const absl::Status status =
      engine->Step(std::span(&part, 1), [](size_t, int32_t, std::span<const float>) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(OnDevices, EvictionHoldsAndReadsNoMoreThanItSays) {
  const auto engine = MakeDecoder(Golden("decoder-llama3"), device_);
  const std::vector<int32_t> prompt = RandomIds(*engine, 30, 5);
  const auto policy = MakePolicy(*engine, "sinks:first=2,recent=20");
  const CachedTextPtr text = StartText(*engine, policy, 30, 40);
  (void)RunStep(
      *engine,
      {.text = text.get(), .ids = prompt, .prompt_tokens = 30, .logits = StepPart::Logits::kNone});
  const int32_t id = 1;
  for (int i = 0; i < 10; ++i) {
    (void)RunStep(*engine, {.text = text.get(), .ids = std::span(&id, 1)});
  }
  const v1::PruningReport report = DecoderEngine::Report(*text);
  EXPECT_EQ(report.policy(), policy->text());
  const auto& config = engine->config();
  const int64_t pair = 2 * int64_t{config.head_dim} * 4 * config.layers * config.kv_heads;
  EXPECT_EQ(report.kv_held().dense(), 40 * pair);
  EXPECT_EQ(report.kv_held().done(), 22 * pair);
  // Ten steps that read 22 slots each, where dense would have read 31, 32, ..., 40.
  EXPECT_EQ(report.decode().bytes().done(), 10 * 22 * pair);
  EXPECT_EQ(report.decode().bytes().dense(), (31 + 40) * 5 * pair);
  EXPECT_EQ(report.decode().tokens().done(), 10 * config.layers);
}

/// The report of a text of 30 prompt tokens and 10 decode steps that explains.
v1::PruningReport Explain(DecoderEngine& engine, std::string_view policy) {
  const CachedTextPtr text =
      StartText(engine, MakePolicy(engine, policy), 30, 40, {.layers = true, .tokens = true});
  const std::vector<int32_t> prompt = RandomIds(engine, 30, 5);
  (void)RunStep(
      engine,
      {.text = text.get(), .ids = prompt, .prompt_tokens = 30, .logits = StepPart::Logits::kNone});
  for (int32_t id = 0; id < 10; ++id) {
    (void)RunStep(engine, {.text = text.get(), .ids = std::span(&id, 1)});
  }
  return DecoderEngine::Report(*text);
}

TEST(DecoderEngine, AReportThatExplainsTellsWhoseKeysTheLastStepRead) {
  const auto engine = MakeDecoder(Golden("decoder-llama3"), MakeDevice("reference"));
  const auto& config = engine->config();
  const auto layers_of = [&](std::string_view policy) {
    std::vector<std::vector<int32_t>> layers;
    const v1::PruningReport report = Explain(*engine, policy);
    for (const auto& keys : report.keys_read()) {
      layers.emplace_back(keys.heads().begin(), keys.heads().end());
    }
    EXPECT_EQ(layers.size(), static_cast<size_t>(config.layers)) << policy;
    return layers;
  };
  for (const auto& heads : layers_of("")) {
    EXPECT_EQ(heads, std::vector<int32_t>(40, config.kv_heads));
  }
  for (const auto& heads : layers_of("sinks:first=2,recent=20")) {
    std::vector<int32_t> expected(40, 0);
    std::fill_n(expected.begin(), 2, config.kv_heads);
    std::fill_n(expected.end() - 20, 20, config.kv_heads);
    EXPECT_EQ(heads, expected);
  }
  for (const auto& heads : layers_of("h2o:heavy=0.2,recent=0.2")) {  // 8 of each, for each head.
    EXPECT_EQ(std::accumulate(heads.begin(), heads.end(), 0), 16 * config.kv_heads);
    EXPECT_TRUE(std::all_of(heads.end() - 8, heads.end(),
                            [&](int32_t count) { return count == config.kv_heads; }));
    EXPECT_EQ(heads[0], config.kv_heads);
  }
  for (const auto& heads : layers_of("snapkv:keep=0.5,window=4")) {  // 15 of the prompt.
    EXPECT_EQ(std::accumulate(heads.begin(), heads.end(), 0), (15 + 10) * config.kv_heads);
    EXPECT_TRUE(std::all_of(heads.begin() + 26, heads.end(),
                            [&](int32_t count) { return count == config.kv_heads; }));
  }
  // Pages are 0 to 3, ..., 36 to 39; of the ten each head reads five, the last among them.
  const auto pages = layers_of("quest:keep=0.5,page=4,whole=1");
  EXPECT_EQ(pages.front(), std::vector<int32_t>(40, config.kv_heads));
  for (const auto& heads : std::span(pages).subspan(1)) {
    EXPECT_EQ(std::accumulate(heads.begin(), heads.end(), 0), 20 * config.kv_heads);
    for (size_t slot = 0; slot < 40; ++slot) EXPECT_EQ(heads[slot], heads[slot / 4 * 4]);
    EXPECT_EQ(heads[39], config.kv_heads);
  }
  // All heads of a layer read the same: floor(40 x share) keys.
  const auto cascade = layers_of("spatten:final=0.25");
  EXPECT_EQ(std::ranges::count(cascade.front(), config.kv_heads), 40);
  EXPECT_EQ(std::ranges::count(cascade.back(), config.kv_heads), 10);
  EXPECT_EQ(std::ranges::count(cascade.back(), 0), 30);
}

TEST(DecoderEngine, ATextGoesOnPastTheContextWherePositionsAreTheCaches) {
  const auto engine = MakeDecoder(Golden("decoder-llama3"), MakeDevice("cpu"));
  const auto policy = MakePolicy(*engine, "sinks:first=2,recent=20");
  EXPECT_EQ(engine->MaxTokens(nullptr), engine->config().max_tokens);
  EXPECT_GT(engine->MaxTokens(policy.get()), 100 * engine->config().max_tokens);
  const int32_t steps = engine->config().max_tokens + 10;
  const int32_t first = 1;
  const Rows rows = RunAlone(*engine, std::span(&first, 1), steps, policy);
  EXPECT_TRUE(std::ranges::all_of(rows.back(), [](float x) { return std::isfinite(x); }));
}

TEST(DecoderEngine, TheCacheNeverGrowsPastItsLimit) {
  const auto device = MakeDevice("cpu");
  const auto probe = MakeDecoder(Golden("decoder-gpt2"), device);
  const size_t page = probe->CacheBytes(nullptr, 1, 1);
  const auto pool = std::make_shared<KvPool>(4 * page);
  const auto engine = MakeDecoder(Golden("decoder-gpt2"), device, Precision::kF32, pool);
  {
    const CachedTextPtr one = StartText(*engine, nullptr, 1, 3 * kKvPageTokens);
    EXPECT_EQ(pool->snapshot().reserved, 3 * page);
    EXPECT_TRUE(absl::IsResourceExhausted(engine->Start(nullptr, {}, 2 * page).status()));
    EXPECT_TRUE(engine->Start(nullptr, {}, page).ok());
  }
  EXPECT_EQ(pool->snapshot().reserved, 0);
  // Idle pages give way.
  for (uint32_t seed : {1, 2, 3}) {
    (void)RunAlone(*engine, RandomIds(*engine, kKvPageTokens, seed), 1, nullptr);
  }
  EXPECT_EQ(pool->snapshot().idle, 3 * page);
  EXPECT_TRUE(engine->Start(nullptr, {}, 3 * page).ok());
  EXPECT_EQ(pool->snapshot().idle, page);
}

TEST(DecoderEngine, RefusesPromptsThatCannotRun) {
  const auto engine = MakeDecoder(Golden("decoder-gpt2"), MakeDevice("cpu"));
  const int32_t vocab = engine->config().vocab_size;
  EXPECT_TRUE(absl::IsInvalidArgument(engine->ValidatePrompt({})));
  EXPECT_TRUE(absl::IsInvalidArgument(engine->ValidatePrompt(std::vector<int32_t>{0, vocab})));
  EXPECT_TRUE(absl::IsInvalidArgument(engine->ValidatePrompt(std::vector<int32_t>{-1})));
  EXPECT_TRUE(absl::IsInvalidArgument(engine->ValidatePrompt(
      std::vector<int32_t>(static_cast<size_t>(engine->max_tokens()) + 1, 0))));
  EXPECT_TRUE(engine->ValidatePrompt(std::vector<int32_t>{0, vocab - 1}).ok());
}

}  // namespace
}  // namespace thresher
