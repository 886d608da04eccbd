#include "backend/evaluation/elsa_thresholds.h"

#include <gmock/gmock.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend/evaluation/engine_runner.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

TEST(ElsaThresholds, AreMeansOfTheLeastSimilarityAboveTheDegree) {
  // Keys 2, 1 and -1, queries 1 and -1, scores in units of ln 2. The probabilities are 8, 4, 1 of
  // 13 and 1, 2, 8 of 11; the similarities 1, 1/2, -1/2 and -1, -1/2, 1/2.
  const std::vector<float> key = {2, 1, -1}, query = {1, -1, 0};
  const LayerVectors vectors = {
      .query = {query.data(), 3, 1}, .key = {key.data(), 3, 1}, .scale = std::log(2.0f)};
  // The third query sees all keys alike: a similarity of 0.
  ElsaThresholds learner(2, 1, {0.01, 0.5, 1, 100});
  const std::vector<int32_t> positions = {0, 1, 2};
  SequencePlan plan;
  learner.Start(3, {})->BeforeScores(1, positions, vectors, nullptr, &plan);
  EXPECT_EQ(plan, SequencePlan());
  // All keys: -1/2 and -1; negative.
  EXPECT_THAT(learner.Of(0), ElementsAre(0, 0));
  // Above 1/6: 8 and 4 of 13, 2 and 8 of 11: 1/2 and -1/2.
  EXPECT_THAT(learner.Of(1), ElementsAre(0, DoubleNear(0, 1e-6)));
  // Above 1/3: one each.
  EXPECT_THAT(learner.Of(2), ElementsAre(0, DoubleNear(1.5 / 3, 1e-6)));
  // None: the best one.
  EXPECT_THAT(learner.Of(3), ElementsAre(0, DoubleNear(1.5 / 3, 1e-6)));
  EXPECT_EQ(learner.PolicyOf(3), "elsa:thresholds=0.0000/0.5000");
}

TEST(ElsaThresholds, AGreaterDegreeLeavesFewerKeysOfARealModel) {
  const std::shared_ptr<LoadedModel> model =
      LoadModel((testing::SourceDir() / "models/sst2-mini").string(),
                *CreateDevice("cpu", {.threads = 2}), {.precision = Precision::kF32})
          .value();
  const std::vector<std::string> labels = {"negative", "positive"};
  const LabelledData data =
      ReadLabelledData((testing::SourceDir() / "tests/evaluation/reviews.tsv").string(), {},
                       Measure::kAccuracy, labels)
          .value();
  const auto runner = EngineRunner::Create(model, Measure::kAccuracy, data.examples).value();
  const auto learner = std::make_shared<ElsaThresholds>(
      model->info.layers, model->info.heads,
      std::vector<double>{ElsaDegree(0.9), ElsaDegree(0.5), ElsaDegree(0.2)});
  const auto dense = runner->Run(std::shared_ptr<const Policy>(learner), nullptr);
  ASSERT_TRUE(dense.ok()) << dense.status();
  EXPECT_EQ(dense->work.scores().done(), dense->work.scores().dense());
  int64_t last = dense->work.scores().done();
  for (size_t d = 0; d < 3; ++d) {
    const auto pass = runner->Run(learner->PolicyOf(d), nullptr);
    ASSERT_TRUE(pass.ok()) << pass.status();
    EXPECT_LT(pass->work.scores().done(), last) << learner->PolicyOf(d);
    last = pass->work.scores().done();
  }
}

}  // namespace
}  // namespace thresher
