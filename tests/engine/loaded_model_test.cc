#include "backend/engine/loaded_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/engine/engine_testing.h"
#include "tests/golden/golden.h"
#include "tests/model/safetensors_builder.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using testing::GoldenDir;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MakeDevice;
using ::testing::Pointwise;
using testing::RunBatch;
namespace fs = std::filesystem;

std::unique_ptr<LoadedModel> Load(const std::string& directory, const LoadOptions& options = {}) {
  auto model = LoadModel(directory, MakeDevice("reference"), options);
  if (!model.ok()) throw std::runtime_error(Message(model.status()));
  return *std::move(model);
}

TEST(LoadModel, TellsWhatItLoaded) {
  const auto model = Load((testing::SourceDir() / "models/sst2-mini").string());
  const ModelInfo& info = model->info;
  EXPECT_EQ(info.architecture, "BertForSequenceClassification");
  EXPECT_EQ(info.task, Task::kSequenceClassification);
  EXPECT_THAT(info.labels, ElementsAre("negative", "positive"));
  EXPECT_FALSE(info.multi_label);
  EXPECT_EQ(info.max_tokens, 128);  // tokenizer_config.json's model_max_length.
  EXPECT_EQ(info.hidden_size, 192);
  EXPECT_EQ(info.layers, 6);
  EXPECT_EQ(info.heads, 6);
  EXPECT_EQ(info.vocab_size, 8000);
  EXPECT_EQ(info.type_vocab_size, 2);
  EXPECT_EQ(info.parameters, 4'341'698);
  EXPECT_EQ(info.precision, Precision::kF32);
  EXPECT_GT(info.packed_bytes, 2'600'000u * 4u);
  EXPECT_FALSE(info.normalize);
  ASSERT_NE(model->tokenizer, nullptr);
  EXPECT_EQ(model->tokenizer->vocab_size(), 8000);
}

TEST(LoadModel, ADecoderHasAnEngineOfItsOwn) {
  const auto model =
      Load((testing::SourceDir() / "tests/golden/decoder-gpt2").string(), {.max_tokens = 40});
  EXPECT_EQ(model->engine, nullptr);
  ASSERT_NE(model->decoder, nullptr);
  const ModelInfo& info = model->info;
  EXPECT_EQ(info.architecture, "GPT2LMHeadModel");
  EXPECT_EQ(info.task, Task::kGeneration);
  EXPECT_EQ(info.max_tokens, 40);
  EXPECT_EQ(info.vocab_size, 64);
  EXPECT_EQ(info.bos, 0);
  EXPECT_THAT(info.eos, ElementsAre(2));
  EXPECT_GT(info.parameters, 0);
  EXPECT_EQ(model->decoder->pool().snapshot().used, 0u);
}

TEST(LoadModel, ADecoderThatNoTextCouldFitTheCacheOfIsRefused) {
  const auto model = LoadModel((testing::SourceDir() / "tests/golden/decoder-gpt2").string(),
                               MakeDevice("reference"), {.kv_pool = std::make_shared<KvPool>(16)});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(LoadModel, TextToLogitsAgreesWithPyTorch) {
  const fs::path directory = testing::SourceDir() / "models/sst2-mini";
  const auto model = Load(directory.string());
  const nlohmann::json golden = testing::ReadGolden(directory);
  for (const nlohmann::json& c : golden["cases"]) {
    if (c["input_ids"].size() > 20)
      continue;  // A slow device: the engine's own test runs them all.
    const auto encoding = model->tokenizer->Encode(c["text"].get<std::string>(),
                                                   {.max_tokens = 128, .truncate = true});
    ASSERT_TRUE(encoding.ok()) << encoding.status();
    Sequence sequence = {.want_logits = true};
    for (const EncodedToken& token : encoding->tokens) {
      sequence.ids.push_back(token.id);
      sequence.type_ids.push_back(token.type_id);
    }
    EXPECT_EQ(sequence.ids, testing::Ids(c["input_ids"])) << c["text"];
    EXPECT_THAT(RunBatch(*model->engine, {sequence})[0].logits,
                Pointwise(FloatNear(1e-4f), testing::Floats(c["logits"])));
  }
}

TEST(LoadModel, LoadsEveryArchitecture) {
  for (const char* name : testing::kGoldenModels) {
    const auto model = Load(GoldenDir(name));
    EXPECT_EQ(model->info.hidden_size, 32) << name;
    EXPECT_EQ(model->info.max_tokens, std::string(name).starts_with("roberta")    ? 38
                                      : std::string(name).starts_with("sentence") ? 24
                                                                                  : 40)
        << name;
  }
}

TEST(LoadModel, TakesPoolingFromTheSentenceTransformersFiles) {
  const auto model = Load(GoldenDir("sentence-mean"));
  EXPECT_EQ(model->info.task, Task::kNone);
  EXPECT_EQ(model->info.pooling, Pooling::kMean);
  EXPECT_TRUE(model->info.normalize);
  EXPECT_EQ(model->info.max_tokens, 24);
}

TEST(LoadModel, OptionsComeBeforeTheFiles) {
  const auto model = Load(GoldenDir("sentence-mean"), {.precision = Precision::kBF16,
                                                       .pooling = Pooling::kCls,
                                                       .normalize = false,
                                                       .max_tokens = 10});
  EXPECT_EQ(model->info.precision, Precision::kBF16);
  EXPECT_EQ(model->info.pooling, Pooling::kCls);
  EXPECT_FALSE(model->info.normalize);
  EXPECT_EQ(model->info.max_tokens, 10);
  EXPECT_FALSE(
      model->engine->Validate({.ids = std::vector<int32_t>(11, 5), .want_embedding = true}).ok());
  // A limit above the model's own changes nothing.
  EXPECT_EQ(Load(GoldenDir("sentence-mean"), {.max_tokens = 1000})->info.max_tokens, 24);
}

// ---- Directories that are wrong ----

class BrokenModel : public ::testing::Test {
 protected:
  /// Starts from a good directory.
  void Copy(const std::string& model) {
    fs::copy(GoldenDir(model), temp_.path(),
             fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  }
  fs::path file(const std::string& name) const { return temp_.path() / name; }
  void Write(const std::string& name, const std::string& text) {
    testing::WriteText(file(name), text);
  }
  void Edit(const std::string& name, const std::function<void(nlohmann::json&)>& edit) {
    nlohmann::json json = nlohmann::json::parse(testing::ReadText(file(name)));
    edit(json);
    Write(name, json.dump());
  }
  std::string Error(absl::StatusCode code) {
    const auto model = LoadModel(temp_.path().string(), MakeDevice("reference"), {});
    EXPECT_EQ(model.status().code(), code) << model.status();
    EXPECT_THAT(Message(model.status()), HasSubstr(temp_.path().string()));
    return Message(model.status());
  }

 private:
  testing::TempDir temp_;
};

TEST_F(BrokenModel, MissingFilesAreNamed) {
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr("config.json"));
  Copy("bert-plain");
  fs::remove(file("model.safetensors"));
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr("model.safetensors"));
  Copy("bert-plain");
  fs::remove(file("vocab.txt"));
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr("vocab.txt"));
}

TEST_F(BrokenModel, AMissingShardIsNamed) {
  Copy("bert-token");
  fs::remove(file("model-00002-of-00002.safetensors"));
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr("model-00002-of-00002.safetensors"));
}

TEST_F(BrokenModel, ShapesThatContradictTheConfigAreNamed) {
  Copy("bert-sequence");
  Edit("config.json", [](auto& config) { config["intermediate_size"] = 64; });
  EXPECT_THAT(
      Error(absl::StatusCode::kInvalidArgument),
      AllOf(HasSubstr("intermediate.dense.weight"), HasSubstr("[48, 32]"), HasSubstr("[64, 32]")));
  Copy("bert-sequence");
  Edit("config.json", [](auto& config) { config["id2label"]["3"] = "more"; });
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("classifier.weight"), HasSubstr("[3, 32]"), HasSubstr("[4, 32]")));
  Copy("bert-sequence");
  Edit("config.json", [](auto& config) { config["num_hidden_layers"] = 3; });
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("bert.encoder.layer.2."), HasSubstr("missing")));
}

TEST_F(BrokenModel, AnEncoderWithoutTheHeadItClaimsIsRefused) {
  Copy("bert-plain");
  Edit("config.json",
       [](auto& config) { config["architectures"] = {"BertForSequenceClassification"}; });
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("bert.pooler.dense.weight"), HasSubstr("missing")));
}

TEST_F(BrokenModel, ATokenizerWithMoreTokensThanTheTableIsRefused) {
  Copy("bert-plain");
  Write("vocab.txt", testing::ReadText(file("vocab.txt")) + "onemore\n");
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("up to 64"), HasSubstr("'vocab_size' is 64")));
}

TEST_F(BrokenModel, ACutFileIsRefused) {
  Copy("bert-plain");
  fs::resize_file(file("model.safetensors"), fs::file_size(file("model.safetensors")) - 7);
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("cut short"));
}

TEST_F(BrokenModel, ModulesThatAreNotServedAreNamed) {
  const auto unserved = absl::StatusCode::kUnimplemented;
  Copy("sentence-mean");
  Edit("modules.json", [](auto& modules) {
    modules.push_back(
        {{"idx", 3}, {"path", "3_Dense"}, {"type", "sentence_transformers.models.Dense"}});
  });
  EXPECT_THAT(Error(unserved), HasSubstr("sentence_transformers.models.Dense"));
  Copy("sentence-mean");
  Edit("modules.json", [](auto& modules) { modules[1]["type"] = "x.WordWeights"; });
  EXPECT_THAT(Error(unserved), AllOf(HasSubstr("module 1"), HasSubstr("x.WordWeights")));
  Copy("sentence-mean");
  Edit("modules.json", [](auto& modules) { modules.erase(1), modules.erase(1); });
  EXPECT_THAT(Error(unserved), HasSubstr("Pooling"));
  Copy("sentence-mean");
  Edit("modules.json", [](auto& modules) { modules[1]["path"] = "../elsewhere"; });
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("../elsewhere"));
  Copy("sentence-mean");
  Write("modules.json", "{}");
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("not a list"));
}

TEST_F(BrokenModel, PoolingThatIsNotServedIsNamed) {
  const std::string config = "1_Pooling/config.json";
  Copy("sentence-mean");
  Edit(config, [](auto& pooling) { pooling["pooling_mode_max_tokens"] = true; });
  EXPECT_THAT(Error(absl::StatusCode::kUnimplemented), HasSubstr("pooling_mode_max_tokens"));
  Copy("sentence-mean");
  Edit(config, [](auto& pooling) { pooling["pooling_mode_cls_token"] = true; });
  EXPECT_THAT(Error(absl::StatusCode::kUnimplemented), HasSubstr("both"));
  Copy("sentence-mean");
  Edit(config, [](auto& pooling) { pooling["pooling_mode_mean_tokens"] = false; });
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("must be true"));
  Copy("sentence-mean");
  Edit(config, [](auto& pooling) { pooling["word_embedding_dimension"] = 33; });
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("'word_embedding_dimension'"));
  Copy("sentence-mean");
  fs::remove(file(config));
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr("1_Pooling/config.json"));
}

TEST_F(BrokenModel, TransformersInADirectoryOfTheirOwnAreFound) {
  Copy("sentence-mean");
  fs::create_directory(file("0_Transformer"));
  for (const char* name :
       {"config.json", "model.safetensors", "vocab.txt", "sentence_bert_config.json"}) {
    fs::rename(file(name), file(std::string("0_Transformer/") + name));
  }
  Edit("modules.json", [](auto& modules) { modules[0]["path"] = "0_Transformer"; });
  const auto model = LoadModel(file(".").string(), MakeDevice("reference"), {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info.max_tokens, 24);
}

TEST_F(BrokenModel, WeightsThatOverflowAreFoundAtLoad) {
  Copy("roberta-sequence");
  // Word 0 and position 2 (the first) together exceed a float.
  std::string weights = testing::ReadText(file("model.safetensors"));
  uint64_t header = 0;
  std::memcpy(&header, weights.data(), sizeof(header));
  const float huge = 3e38f;
  for (const size_t row : {0, 64 + 2}) {
    std::memcpy(weights.data() + 8 + header + row * 32 * sizeof(huge), &huge, sizeof(huge));
  }
  Write("model.safetensors", weights);
  EXPECT_THAT(Error(absl::StatusCode::kInternal), HasSubstr("not finite"));
}

}  // namespace
}  // namespace thresher
