// Predicted scores on a real model: how near each kind comes to the true ones, and the policies
// that choose by them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/engine/loaded_model.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/report.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

/// How near predicted scores come to the true ones, row by row.
struct Agreement {
  double covariance = 0, predicted = 0, truth = 0;  // Of differences from the row's mean.
  int64_t top = 0, found = 0;  // Of the keys with the best quarter of a row's true scores.

  double correlation() const { return covariance / std::sqrt(predicted * truth); }
  double slope() const { return covariance / truth; }
  double recall() const { return static_cast<double>(found) / static_cast<double>(top); }

  void Add(std::span<const float> guess, std::span<const float> exact) {
    const auto n = static_cast<double>(guess.size());
    const double guess_mean = std::accumulate(guess.begin(), guess.end(), 0.0) / n;
    const double exact_mean = std::accumulate(exact.begin(), exact.end(), 0.0) / n;
    for (size_t j = 0; j < guess.size(); ++j) {
      const double g = guess[j] - guess_mean, e = exact[j] - exact_mean;
      covariance += g * e;
      predicted += g * g;
      truth += e * e;
    }
    TopK<float> first, second;
    const int64_t count = KeepCount(static_cast<int64_t>(guess.size()), 0.25);
    const auto guessed = first(guess, count);
    for (const int32_t j : second(exact, count)) {
      ++top;
      found += std::ranges::binary_search(guessed, j) ? 1 : 0;
    }
  }
};

/// Leaves nothing out; compares the prediction that it asks for with the scores of the Q and K that
/// it is shown.
class Probe final : public Policy {
 public:
  Probe(const PredictionRequest& request, Agreement* agreement)
      : request_(request), agreement_(agreement) {}

  std::string text() const override { return "probe"; }
  std::string name() const override { return "probe"; }
  PredictionRequest prediction() const override { return request_; }
  double CostShare(int32_t tokens) const override { return 1.0; }
  std::unique_ptr<PolicyRun> Start(int32_t tokens, std::span<const int32_t>) const override {
    return std::make_unique<Run>(*this);
  }

 private:
  static constexpr int32_t kHeads = 6, kDim = 32;

  class Run final : public PolicyRun {
   public:
    explicit Run(const Probe& probe) : probe_(probe) {}

    void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                          const LayerPrediction* prediction, SequencePlan* plan) override {
      EXPECT_EQ(prediction != nullptr, probe_.request_.from_input());
      if (prediction != nullptr) Keep(*prediction, positions.size());
    }
    void BeforeScores(int32_t layer, std::span<const int32_t> positions,
                      const LayerVectors& vectors, const LayerPrediction* prediction,
                      SequencePlan* plan) override {
      EXPECT_EQ(prediction != nullptr, !probe_.request_.from_input());
      if (prediction != nullptr) Keep(*prediction, positions.size());
      EXPECT_FLOAT_EQ(vectors.scale, 1.0f / std::sqrt(float{kDim}));
      std::vector<float> exact(positions.size());
      for (int32_t h = 0; h < kHeads; ++h) {
        for (size_t i = 0; i < positions.size(); ++i) {
          for (size_t j = 0; j < positions.size(); ++j) {
            const float* const q = vectors.query.row(static_cast<int64_t>(i)) + h * kDim;
            const float* const k = vectors.key.row(static_cast<int64_t>(j)) + h * kDim;
            exact[j] = vectors.scale * std::inner_product(q, q + kDim, k, 0.0f);
          }
          probe_.agreement_->Add(predicted_[h].view().row_span(static_cast<int64_t>(i)), exact);
        }
      }
    }

   private:
    void Keep(const LayerPrediction& prediction, size_t tokens) {
      const auto rows = static_cast<int64_t>(tokens);
      predicted_ = std::vector<MatrixBuffer>(kHeads);
      for (MatrixBuffer& head : predicted_) head.Resize(rows, rows);
      std::vector<int32_t> heads(kHeads);
      std::iota(heads.begin(), heads.end(), 0);
      prediction.ForEachBlock(heads, [&](int32_t head, int64_t first, ConstMatrix scores) {
        for (int64_t r = 0; r < scores.rows; ++r) {
          std::copy_n(scores.row(r), rows, predicted_[head].view().row(first + r));
        }
      });
    }

    const Probe& probe_;
    std::vector<MatrixBuffer> predicted_;
  };

  const PredictionRequest request_;
  Agreement* const agreement_;
};

class ScorePrediction : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    model_ = LoadModel((testing::SourceDir() / "models/sst2-mini").string(),
                       *CreateDevice(GetParam(), {.threads = 2}), {.precision = Precision::kF32})
                 .value();
    std::ifstream file(testing::SourceDir() / "models/sst2-mini/golden.json");
    cases_ = nlohmann::json::parse(file)["cases"];
  }

  std::vector<SequenceOutput> Run(const std::vector<Sequence>& sequences) const {
    std::vector<const Sequence*> pointers;
    for (const Sequence& sequence : sequences) pointers.push_back(&sequence);
    std::vector<SequenceOutput> outputs(sequences.size());
    const absl::Status status = model_->engine->Run(pointers, outputs);
    EXPECT_TRUE(status.ok()) << status;
    return outputs;
  }

  Sequence Text(size_t number, const std::string& policy = "") const {
    Sequence sequence{.ids = cases_[number]["input_ids"].get<std::vector<int32_t>>(),
                      .want_logits = true};
    if (!policy.empty()) sequence.policy = model_->engine->ParsePolicy(policy).value();
    return sequence;
  }

  Agreement Of(const PredictionRequest& request) const {
    Agreement agreement;
    std::vector<Sequence> texts;
    for (size_t i = 8; i < 10; ++i) {
      texts.push_back(Text(i));
      texts.back().policy = std::make_shared<Probe>(request, &agreement);
    }
    Run(texts);
    return agreement;
  }

  std::unique_ptr<LoadedModel> model_;
  nlohmann::json cases_;
};

/// Once: the device tests say that all devices predict the same.
class NearScores : public ScorePrediction {};

TEST_P(NearScores, ComeAsNearAsTheirKindCan) {
  using Kind = PredictionKind;
  const auto of = [&](const char* name, const PredictionRequest& request) {
    const Agreement agreement = Of(request);
    RecordProperty(
        name, std::to_string(agreement.correlation()) + " " + std::to_string(agreement.recall()));
    return agreement;
  };
  const Agreement integer8 = of("integer8", {.kind = Kind::kInteger, .bits = 8});
  const Agreement integer4 = of("integer4", {.kind = Kind::kInteger, .bits = 4});
  EXPECT_GT(integer8.correlation(), 0.999);
  EXPECT_NEAR(integer8.slope(), 1, 0.01);
  EXPECT_GT(integer4.correlation(), 0.97);
  EXPECT_NEAR(integer4.slope(), 1, 0.05);

  const Agreement eager = of("eager", {.kind = Kind::kEager, .bits = 8});
  const Agreement one_operand = of("one operand", {.kind = Kind::kOneOperandLog, .bits = 8});
  EXPECT_GT(eager.correlation(), 0.8);
  EXPECT_GT(one_operand.correlation(), eager.correlation());
  EXPECT_NEAR(one_operand.slope(), 1, 0.15);

  // All components are a rotation; the leading ones say more than so many random directions.
  const Agreement all = of("principal32", {.kind = Kind::kPrincipal, .bits = 8, .width = 32});
  const Agreement some = of("principal8", {.kind = Kind::kPrincipal, .bits = 8, .width = 8});
  const Agreement random8 = of("projection8", {.kind = Kind::kProjection, .bits = 8, .width = 8});
  const Agreement random32 =
      of("projection32", {.kind = Kind::kProjection, .bits = 8, .width = 32});
  EXPECT_GT(all.correlation(), 0.999);
  EXPECT_GT(some.correlation(), random8.correlation());
  EXPECT_GT(random32.correlation(), random8.correlation());
  EXPECT_GT(random8.correlation(), 0.1);
  // What all keys have in common changes no order.
  const Agreement centered =
      of("centered8", {.kind = Kind::kProjection, .bits = 8, .width = 8, .center = true});
  EXPECT_NEAR(centered.correlation(), random8.correlation(), 0.02);

  // From the input: the more of it is left, the nearer.
  const Agreement low = of("input32", {.kind = Kind::kInputProjection, .bits = 8, .rank = 32});
  const Agreement high = of("input128", {.kind = Kind::kInputProjection, .bits = 8, .rank = 128});
  const Agreement detector =
      of("dota32", {.kind = Kind::kInputProjection, .bits = 4, .width = 16, .rank = 32});
  EXPECT_GT(high.correlation(), low.correlation());
  EXPECT_GT(low.correlation(), 0.0);
  EXPECT_GT(detector.correlation(), 0.0);

  const Agreement hash = of("hash32", {.kind = Kind::kSignHash, .bits = 1});
  EXPECT_GT(hash.correlation(), 0.4);
}

TEST_P(ScorePrediction, PoliciesHaveTheSameBitsAloneAndBesideOthers) {
  const char* const policies[] = {"sanger:threshold=0.02",
                                  "dota:topk=0.3",
                                  "",
                                  "projection:topk=0.3,width=8,center=mean",
                                  "projection:topk=0.3,from=input",
                                  "sofa:topk=0.3,radius=4",
                                  "sofa:topk=0.3",
                                  "elsa:threshold=0.3,hash=16",
                                  "principal:topk=0.3,similar=0.9",
                                  "spatten:final=0.4,heads=0.5+sanger:threshold=0.02"};
  std::vector<Sequence> together;
  for (size_t i = 0; i < std::size(policies); ++i) together.push_back(Text(i + 8, policies[i]));
  const auto batch = Run(together);
  for (size_t i = 0; i < together.size(); ++i) {
    const auto alone = Run({together[i]});
    EXPECT_EQ(alone[0].logits, batch[i].logits) << policies[i];
    EXPECT_EQ(alone[0].report.SerializeAsString(), batch[i].report.SerializeAsString())
        << policies[i];
  }
}

TEST_P(ScorePrediction, TheAccountSaysWhatWasGeneratedAndWhatWasScored) {
  for (const char* policy : {"sanger:threshold=0.05", "projection:topk=0.2,width=8",
                             "principal:topk=0.2", "elsa:threshold=0.5"}) {
    const v1::PruningReport::Work work = Run({Text(9, policy)})[0].report.total();
    EXPECT_LT(work.scores().done(), work.scores().dense()) << policy;
    // Q, K and V were there when it was chosen what is scored.
    EXPECT_EQ(work.qkv_rows().done(), work.qkv_rows().dense()) << policy;
    EXPECT_EQ(work.predicted_scores(), work.scores().dense()) << policy;
  }
  for (const char* policy : {"dota:topk=0.1", "sofa:topk=0.1", "projection:topk=0.1,from=input"}) {
    const v1::PruningReport::Work work = Run({Text(9, policy)})[0].report.total();
    EXPECT_LT(work.scores().done(), work.scores().dense()) << policy;
    EXPECT_LT(work.qkv_rows().done(), work.qkv_rows().dense()) << policy;
    EXPECT_EQ(work.predicted_scores(), work.scores().dense()) << policy;
  }
}

TEST_P(ScorePrediction, OneTokenRunsUnderEveryPolicy) {
  for (const char* policy : {"sanger:threshold=1", "elsa:threshold=1", "dota:topk=0.1",
                             "projection:topk=0.1,center=mean", "sofa:topk=0.1,segments=64",
                             "principal:topk=0.1,similar=0.1"}) {
    Sequence one = Text(0, policy);
    one.ids = {2};
    EXPECT_EQ(Run({one})[0].report.total().scores().done(), 36) << policy;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, NearScores, ::testing::Values("cpu"),
                         [](const auto& info) { return std::string(info.param); });
INSTANTIATE_TEST_SUITE_P(Devices, ScorePrediction, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace thresher
