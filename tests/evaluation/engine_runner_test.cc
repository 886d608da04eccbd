#include "backend/evaluation/engine_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "backend/evaluation/calibration.h"
#include "backend/evaluation/sweep.h"
#include "backend/tensor/status.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::HasSubstr;
using testing::SharedPath;
using testing::SourceDir;

std::shared_ptr<LoadedModel> Load(const std::string& directory, const std::string& device,
                                  std::optional<Precision> precision = Precision::kF32) {
  auto created = CreateDevice(device, {.threads = 2});
  EXPECT_TRUE(created.ok()) << created.status();
  auto model =
      LoadModel(directory, std::shared_ptr<Device>(*std::move(created)), {.precision = precision});
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

std::shared_ptr<LoadedModel> Sentiment(const std::string& device = "cpu") {
  return Load((SourceDir() / "models/sst2-mini").string(), device);
}

LabelledData Reviews() {
  const std::vector<std::string> labels = {"negative", "positive"};
  auto data = ReadLabelledData((SourceDir() / "tests/evaluation/reviews.tsv").string(), {},
                               Measure::kAccuracy, labels);
  EXPECT_TRUE(data.ok()) << data.status();
  return *std::move(data);
}

TEST(EngineRunner, AnswersAsTheEngineDoes) {
  const auto model = Sentiment();
  const LabelledData data = Reviews();
  const auto runner = EngineRunner::Create(model, Measure::kAccuracy, data.examples);
  ASSERT_TRUE(runner.ok()) << runner.status();
  int64_t answered = 0;
  const auto pass = (*runner)->Run("spatten:final=0.4", [&](int64_t now) {
    answered = now;
    return true;
  });
  ASSERT_TRUE(pass.ok()) << pass.status();
  EXPECT_LE(answered, static_cast<int64_t>(data.examples.size()));
  ASSERT_EQ(pass->answers.size(), data.examples.size());
  EXPECT_THAT(pass->policy, HasSubstr("spatten:final=0.4"));
  EXPECT_GT(pass->seconds, 0);
  EXPECT_LT(pass->work.tokens().done(), pass->work.tokens().dense());

  // One of them alone.
  Sequence sequence;
  const auto encoding = model->tokenizer->Encode(data.examples[7].text, {});
  ASSERT_TRUE(encoding.ok());
  for (const EncodedToken& token : encoding->tokens) sequence.ids.push_back(token.id);
  sequence.want_logits = true;
  sequence.policy = *model->engine->ParsePolicy("spatten:final=0.4");
  const Sequence* sequences[] = {&sequence};
  SequenceOutput output;
  ASSERT_TRUE(model->engine->Run(sequences, std::span(&output, 1)).ok());
  EXPECT_EQ(pass->answers[7].output, output.logits);
}

TEST(EngineRunner, APairsSimilarityIsThatOfItsEmbeddings) {
  const auto model = Sentiment("reference");
  const std::vector<LabelledExample> examples = {
      {.text = "a fine film", .pair = "a fine film", .gold = 5},
      {.text = "a fine film", .pair = "dreadful nonsense", .gold = 0}};
  const auto runner = EngineRunner::Create(model, Measure::kSimilarity, examples);
  ASSERT_TRUE(runner.ok()) << runner.status();
  const auto pass = (*runner)->Run("dense", {});
  ASSERT_TRUE(pass.ok()) << pass.status();
  ASSERT_EQ(pass->answers.size(), 2u);
  EXPECT_NEAR(pass->answers[0].output[0], 1, 1e-6);
  EXPECT_LT(pass->answers[1].output[0], 0.99);
  EXPECT_EQ(pass->answers[0].pooled.size(), 2u * model->info.hidden_size);
}

TEST(EngineRunner, BadPoliciesAndStops) {
  const LabelledData data = Reviews();
  const auto runner =
      EngineRunner::Create(Sentiment("reference"), Measure::kAccuracy, data.examples);
  ASSERT_TRUE(runner.ok());
  EXPECT_EQ((*runner)->Run("spatten:final=2", {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*runner)->Run("dense", [](int64_t) { return false; }).status().code(),
            absl::StatusCode::kCancelled);
  // And it goes on.
  EXPECT_TRUE((*runner)->Run("dense", {}).ok());
}

/// An engine whose last sequence, of all that it is given, fails.
class FailsAtLast final : public Engine {
 public:
  FailsAtLast(std::unique_ptr<Engine> engine, size_t count)
      : engine_(std::move(engine)), left_(count) {}

  absl::Status Validate(const Sequence& sequence) const override {
    return engine_->Validate(sequence);
  }
  absl::StatusOr<std::shared_ptr<const Policy>> ParsePolicy(std::string_view text) const override {
    return engine_->ParsePolicy(text);
  }
  int64_t Cost(const Sequence& sequence) const override { return engine_->Cost(sequence); }
  absl::Status Run(std::span<const Sequence* const> sequences,
                   std::span<SequenceOutput> outputs) override {
    for (SequenceOutput& output : outputs) {
      if (--left_ == 0) output.status = Internal("not finite");
    }
    return absl::OkStatus();
  }

 private:
  const std::unique_ptr<Engine> engine_;
  size_t left_;
};

TEST(EngineRunner, AnExampleThatFailsFailsThePass) {
  const LabelledData data = Reviews();
  const auto model = Sentiment("reference");
  // Every example is run twice: the runner warms up with as many.
  ASSERT_LE(data.examples.size(), 32u);
  model->engine = std::make_unique<FailsAtLast>(std::move(model->engine), 2 * data.examples.size());
  const auto runner = EngineRunner::Create(model, Measure::kAccuracy, data.examples);
  ASSERT_TRUE(runner.ok());
  const auto pass = (*runner)->Run("dense", {});
  EXPECT_EQ(pass.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(Message(pass.status()), HasSubstr("example 30: not finite"));
}

TEST(EngineRunner, WhatCanNotBeMeasuredIsRefused) {
  const std::vector<LabelledExample> examples = {{.text = "a"}};
  const auto tokens = Load((SourceDir() / "tests/golden/bert-token").string(), "reference");
  EXPECT_EQ(MeasureOf(tokens->info).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_FALSE(EngineRunner::Create(tokens, Measure::kAccuracy, examples).ok());
  const auto plain = Load((SourceDir() / "tests/golden/bert-plain").string(), "reference");
  EXPECT_EQ(*MeasureOf(plain->info), Measure::kSimilarity);
  EXPECT_FALSE(EngineRunner::Create(plain, Measure::kAccuracy, examples).ok());
  EXPECT_FALSE(EngineRunner::Create(plain, Measure::kSimilarity, examples).ok());  // No pair.
}

TEST(Calibration, OfARealModel) {
  const LabelledData data = Reviews();
  const auto runner = EngineRunner::Create(Sentiment(), Measure::kAccuracy, data.examples);
  ASSERT_TRUE(runner.ok());
  CalibrationOptions options;
  options.ladders = {"spatten:final=*"};
  options.shares = {0.9, 0.5};
  options.bounds = {0.01, 0.5};
  options.rounds = 1;
  const auto calibration = Calibrate(**runner, Measure::kAccuracy, data, options);
  ASSERT_TRUE(calibration.ok()) << calibration.status();
  ASSERT_EQ(calibration->too_few.size(), 1u);
  EXPECT_EQ(calibration->too_few[0].bound, 0.01);
  ASSERT_EQ(calibration->profile.entries_size(), 1);
  EXPECT_EQ(calibration->profile.entries(0).max_loss(), 0.5);
  EXPECT_FALSE(calibration->steps.empty());
}

TEST(Sst2, DevAccuracyAndDriftAreThePublishedOnes) {
  const auto path = SharedPath("data/sst2_dev.tsv");
  THRESHER_REQUIRE_SHARED(path);
  const auto model = Sentiment();
  const auto data = ReadLabelledData(path.string(), {}, Measure::kAccuracy, model->info.labels);
  ASSERT_TRUE(data.ok()) << data.status();
  const auto runner = EngineRunner::Create(model, Measure::kAccuracy, data->examples);
  ASSERT_TRUE(runner.ok());
  const std::vector<std::string> policies = {"spatten:final=0.3",
                                             "spatten:final=0.3,importance=random",
                                             "spatten:final=0.3,importance=inverse"};
  const auto results = Sweep(**runner, Measure::kAccuracy, data->examples, policies, {});
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_NEAR(*(*results)[0].quality.accuracy, 711.0 / 872, 1e-9);
  // Accuracy hardly tells the controls apart; drift does.
  EXPECT_NEAR(*(*results)[1].quality.accuracy, 0.818, 0.002);
  EXPECT_LT(2 * *(*results)[1].quality.kl, *(*results)[2].quality.kl);
  EXPECT_LT(2 * *(*results)[2].quality.kl, *(*results)[3].quality.kl);
}

}  // namespace
}  // namespace thresher
