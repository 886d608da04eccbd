#include "backend/engine/encoder_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/engine/engine_testing.h"
#include "tests/golden/golden.h"
#include "tests/model/safetensors_builder.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using ::testing::FloatNear;
using testing::GoldenDir;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MakeDevice;
using testing::MakeEngine;
using ::testing::Pointwise;
using testing::RunBatch;

std::string TestName(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// ---- Against PyTorch ----

class EngineGolden : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(EngineGolden, LogitsAndEmbeddingsAgreeInOneBatch) {
  const auto [device, model] = GetParam();
  const float tolerance = std::string(device) == "reference" ? 2e-5f : 1e-4f;
  const auto engine = MakeEngine(GoldenDir(model), MakeDevice(device));
  const nlohmann::json golden = testing::ReadGolden(GoldenDir(model));

  // Every case three times: mean, normalized mean, first token.
  std::vector<Sequence> sequences;
  for (const nlohmann::json& c : golden["cases"]) {
    Sequence sequence;
    sequence.ids = testing::Ids(c["ids"]);
    sequence.type_ids = testing::Ids(c["type_ids"]);
    sequence.want_logits = c.contains("logits");
    sequence.want_embedding = true;
    sequence.pooling = Pooling::kMean;
    sequences.push_back(sequence);
    sequence.normalize = true;
    sequence.want_logits = false;
    sequences.push_back(sequence);
    sequence.normalize = false;
    sequence.pooling = Pooling::kCls;
    sequences.push_back(sequence);
  }
  const std::vector<SequenceOutput> outputs = RunBatch(*engine, sequences);
  size_t i = 0;
  for (const nlohmann::json& c : golden["cases"]) {
    if (c.contains("logits")) {
      EXPECT_THAT(outputs[i].logits, Pointwise(FloatNear(tolerance), testing::Floats(c["logits"])));
      EXPECT_EQ(static_cast<size_t>(outputs[i].logit_rows * outputs[i].logit_cols),
                outputs[i].logits.size());
    }
    const char* embeddings[] = {"mean", "mean_normalized", "cls"};
    for (const char* name : embeddings) {
      EXPECT_THAT(outputs[i].embedding, Pointwise(FloatNear(tolerance), testing::Floats(c[name])))
          << name;
      ++i;
    }
  }
  EXPECT_EQ(i, outputs.size());
}

INSTANTIATE_TEST_SUITE_P(All, EngineGolden,
                         ::testing::Combine(::testing::Values("reference", "cpu"),
                                            ::testing::ValuesIn(testing::kGoldenModels)),
                         [](const auto& info) {
                           return TestName(std::string(std::get<0>(info.param)) + "_" +
                                           std::get<1>(info.param));
                         });

class TrainedGolden : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(TrainedGolden, LogitsAgree) {
  const auto [device, model] = GetParam();
  const float tolerance = std::string(device) == "reference" ? 1e-4f : 1e-3f;
  const auto directory = std::string(model) == "sst2-mini" ? testing::SourceDir() / "models" / model
                                                           : testing::SharedPath("models") / model;
  THRESHER_REQUIRE_SHARED(directory);
  const auto engine = MakeEngine(directory.string(), MakeDevice(device));
  const nlohmann::json golden = testing::ReadGolden(directory);
  std::vector<Sequence> sequences;
  for (const nlohmann::json& c : golden["cases"]) {
    if (testing::kSanitized && sequences.size() == 4) break;
    sequences.emplace_back().ids = testing::Ids(c["input_ids"]);
    sequences.back().want_logits = true;
  }
  const std::vector<SequenceOutput> outputs = RunBatch(*engine, sequences);
  for (size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_THAT(outputs[i].logits,
                Pointwise(FloatNear(tolerance), testing::Floats(golden["cases"][i]["logits"])));
  }
}

INSTANTIATE_TEST_SUITE_P(All, TrainedGolden,
                         ::testing::Combine(::testing::Values("reference", "cpu"),
                                            ::testing::Values("sst2-mini", "agnews-mini")),
                         [](const auto& info) {
                           return TestName(std::string(std::get<0>(info.param)) + "_" +
                                           std::get<1>(info.param));
                         });

// ---- What can be wrong with a sequence ----

class ValidateTest : public ::testing::Test {
 protected:
  std::string Error(const Engine& engine, const Sequence& sequence) {
    const absl::Status status = engine.Validate(sequence);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return Message(status);
  }
  const std::unique_ptr<EncoderEngine> bert_ =
      MakeEngine(GoldenDir("bert-sequence"), MakeDevice("reference"));
};

TEST_F(ValidateTest, FindsEverything) {
  EXPECT_TRUE(bert_->Validate({.ids = {2, 63}, .type_ids = {0, 1}, .want_logits = true}).ok());
  EXPECT_THAT(Error(*bert_, {.ids = {}, .want_logits = true}), HasSubstr("no tokens"));
  EXPECT_THAT(Error(*bert_, {.ids = {2, 64}, .want_logits = true}),
              AllOf(HasSubstr("token 1"), HasSubstr("id 64"), HasSubstr("0 .. 63")));
  EXPECT_THAT(Error(*bert_, {.ids = {-1}, .want_logits = true}), HasSubstr("id -1"));
  EXPECT_THAT(Error(*bert_, {.ids = std::vector<int32_t>(41, 5), .want_logits = true}),
              AllOf(HasSubstr("41 tokens"), HasSubstr("at most 40")));
  EXPECT_THAT(Error(*bert_, {.ids = {2, 3}, .type_ids = {0}, .want_logits = true}),
              HasSubstr("1 token type ids for 2 tokens"));
  EXPECT_THAT(Error(*bert_, {.ids = {2, 3}, .type_ids = {0, 2}, .want_logits = true}),
              HasSubstr("type id 2"));
  EXPECT_THAT(Error(*bert_, {.ids = {2, 3}, .type_ids = {-1, 0}, .want_logits = true}),
              HasSubstr("type id -1"));
  EXPECT_THAT(Error(*bert_, {.ids = {2}}), HasSubstr("neither"));
}

TEST_F(ValidateTest, RefusesLogitsOfAModelWithoutAHead) {
  const auto plain = MakeEngine(GoldenDir("bert-plain"), MakeDevice("reference"));
  EXPECT_THAT(Error(*plain, {.ids = {2}, .want_logits = true}),
              AllOf(HasSubstr("BertModel"), HasSubstr("no head")));
}

TEST_F(ValidateTest, ANetworkWithoutTokenTypesTakesWhateverTheTokenizerGives) {
  for (const char* model : {"distilbert-sequence", "roberta-sequence"}) {
    const auto engine = MakeEngine(GoldenDir(model), MakeDevice("reference"));
    const Sequence typed = {.ids = {2, 9, 3}, .type_ids = {0, 1, 1}, .want_logits = true};
    const Sequence plain = {.ids = {2, 9, 3}, .want_logits = true};
    const auto outputs = RunBatch(*engine, {typed, plain});
    EXPECT_EQ(outputs[0].logits, outputs[1].logits);
  }
}

TEST_F(ValidateTest, CostIsTokens) {
  EXPECT_EQ(bert_->Cost({.ids = {1, 2, 3}}), 3);
  EXPECT_EQ(bert_->Cost({}), 1);
}

// ---- Batches ----

TEST(EncoderEngine, EachSequenceGetsWhatItAskedFor) {
  const auto engine = MakeEngine(GoldenDir("bert-token"), MakeDevice("reference"));
  const auto outputs = RunBatch(*engine, {{.ids = {2, 8, 3}, .want_logits = true},
                                          {.ids = {2, 3}, .want_embedding = true},
                                          {.ids = {2, 8, 9, 3}, .want_logits = true}});
  EXPECT_EQ(outputs[0].logit_rows, 3);
  EXPECT_EQ(outputs[0].logit_cols, 3);
  EXPECT_THAT(outputs[0].embedding, IsEmpty());
  EXPECT_THAT(outputs[1].logits, IsEmpty());
  EXPECT_EQ(outputs[1].logit_rows, 0);
  EXPECT_EQ(outputs[1].embedding.size(), 32u);
  EXPECT_EQ(outputs[2].logits.size(), 12u);
}

TEST(EncoderEngine, AnEmptyBatchIsNothingToDo) {
  const auto engine = MakeEngine(GoldenDir("bert-plain"), MakeDevice("reference"));
  EXPECT_TRUE(engine->Run({}, {}).ok());
  SequenceOutput output;
  EXPECT_EQ(engine->Run({}, std::span(&output, 1)).code(), absl::StatusCode::kInvalidArgument);
}

TEST(EncoderEngine, OneSequenceThatOverflowsLeavesTheOthers) {
  const testing::TempDir temp;
  const std::string source = GoldenDir("roberta-sequence");
  std::filesystem::copy(
      source, temp.path(),
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
  // The word and position tables come first: word 63 and position 11 become as large as a float can
  // be, so that their sum is not one any more.
  std::string file = testing::ReadText(temp.path() / "model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, file.data(), sizeof(header));
  const float huge = 3e38f;
  for (const size_t row : {63, 64 + 11}) {
    std::memcpy(file.data() + 8 + header + row * 32 * sizeof(huge), &huge, sizeof(huge));
  }
  testing::WriteText(temp.path() / "model.safetensors", file);

  const auto engine = MakeEngine(temp.path().string(), MakeDevice("reference"));
  // RoBERTa's positions begin at 2, so the token at 9 has position 11.
  const Sequence bad = {.ids = {0, 9, 9, 9, 9, 9, 9, 9, 9, 63, 2}, .want_logits = true};
  const Sequence good = {.ids = {0, 9, 2}, .want_logits = true};
  const Sequence* sequences[] = {&good, &bad, &good};
  SequenceOutput outputs[3];
  ASSERT_TRUE(engine->Run(sequences, outputs).ok());
  EXPECT_TRUE(outputs[0].status.ok());
  EXPECT_EQ(outputs[1].status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(outputs[2].status.ok());
  EXPECT_EQ(outputs[0].logits, outputs[2].logits);
}

TEST(EncoderEngine, EnginesOfOneDeviceMayRunFromSeveralThreads) {
  const auto device = MakeDevice("reference");
  const auto first = MakeEngine(GoldenDir("bert-sequence"), device);
  const auto second = MakeEngine(GoldenDir("distilbert-token"), device);
  const Sequence sequence = {.ids = {2, 9, 17, 3}, .want_logits = true};
  const auto want_first = RunBatch(*first, {sequence})[0].logits;
  const auto want_second = RunBatch(*second, {sequence})[0].logits;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 20; ++round) {
        Engine& engine = i % 2 == 0 ? *first : *second;
        EXPECT_EQ(RunBatch(engine, {sequence})[0].logits, i % 2 == 0 ? want_first : want_second);
      }
    });
  }
  // A load, with its packing, goes on meanwhile.
  threads.emplace_back([&] { MakeEngine(GoldenDir("roberta-answer"), device); });
  for (std::thread& thread : threads) thread.join();
}

// ---- The same bits whatever the batch and however many threads ----

class Invariance
    : public ::testing::TestWithParam<std::tuple<const char*, Precision, const char*>> {};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_P(Invariance, SameBitsAloneAndInABatchOf32OnAnyThreads) {
  const auto [device_name, precision, model] = GetParam();
  const bool reference = std::string(device_name) == "reference";
  const bool trained = std::string(model) == "sst2-mini";
  if (testing::kSanitized && reference && trained) {
    GTEST_SKIP() << "skipped: too slow under a sanitizer; the small models run";
  }
  const std::string directory =
      trained ? (testing::SourceDir() / "models" / model).string() : GoldenDir(model);
  const ModelConfig config = *LoadModelConfig(directory);
  const int32_t longest = testing::kSanitized || reference ? 10 : 128;
  const std::vector<Sequence> sequences = testing::MixedSequences(
      32, std::min(config.max_tokens(), longest), config.vocab_size, config.task != Task::kNone);
  std::vector<SequenceOutput> expected;
  for (const int threads : {1, 2, 3}) {
    const auto engine = MakeEngine(directory, MakeDevice(device_name, threads), precision);
    const std::vector<SequenceOutput> together = RunBatch(*engine, sequences);
    if (expected.empty()) expected = together;
    for (size_t i = 0; i < sequences.size(); ++i) {
      EXPECT_TRUE(SameBits(together[i].logits, expected[i].logits)) << i << ", " << threads;
      EXPECT_TRUE(SameBits(together[i].embedding, expected[i].embedding)) << i << ", " << threads;
      const SequenceOutput alone = RunBatch(*engine, {sequences[i]})[0];
      EXPECT_TRUE(SameBits(alone.logits, expected[i].logits)) << i << ", " << threads;
      EXPECT_TRUE(SameBits(alone.embedding, expected[i].embedding)) << i << ", " << threads;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Invariance,
                         ::testing::Combine(::testing::Values("reference", "cpu"),
                                            ::testing::Values(Precision::kF32, Precision::kBF16),
                                            ::testing::Values("sst2-mini", "bert-token",
                                                              "distilbert-sequence")),
                         [](const auto& info) {
                           return TestName(std::string(std::get<0>(info.param)) + "_" +
                                           std::string(Name(std::get<1>(info.param))) + "_" +
                                           std::get<2>(info.param));
                         });

}  // namespace
}  // namespace thresher
