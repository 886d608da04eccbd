// The policies on the trained classifiers: cascade token pruning against golden.json (PyTorch in
// float32), and what FACT's prediction is worth on real weights.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "backend/device/top_k.h"
#include "backend/sparsity/comparison.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/schedule.h"
#include "tests/sparsity/bert.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using testing::Bert;
using testing::BertRun;
using ::testing::FloatNear;
using ::testing::Pointwise;

std::filesystem::path SmallModel() { return testing::SourceDir() / "models/sst2-mini"; }

/// The cases of golden.json.
nlohmann::json Golden(const std::filesystem::path& model) {
  std::ifstream file(model / "golden.json");
  return nlohmann::json::parse(file).at("cases");
}

std::shared_ptr<const Policy> Make(const std::string& text, const PolicyShape& shape) {
  return Policy::Parse(text, shape).value();
}

/// Every `stride`-th case, dense and with both keep ratios.
void MeetsGolden(const std::filesystem::path& model, size_t stride) {
  Bert bert(model);
  const nlohmann::json cases = Golden(model);
  EXPECT_EQ(cases.size(), 32u);
  for (size_t i = 0; i < cases.size(); i += stride) {
    const auto& golden = cases[i];
    const std::vector<int32_t> ids = golden.at("input_ids");
    const BertRun dense = bert.Run(ids, *Make("dense", bert.shape()));
    EXPECT_THAT(dense.logits,
                Pointwise(FloatNear(1e-4f), golden.at("logits").get<std::vector<float>>()));
    for (const auto& pruned : golden.at("pruned")) {
      const std::string text =
          "spatten:final=" + std::to_string(pruned.at("final_keep_ratio").get<double>());
      const BertRun run = bert.Run(ids, *Make(text, bert.shape()));
      EXPECT_EQ(run.positions,
                pruned.at("positions_per_layer").get<std::vector<std::vector<int32_t>>>())
          << golden.at("text") << " under " << text;
      EXPECT_THAT(run.logits,
                  Pointwise(FloatNear(1e-4f), pruned.at("logits").get<std::vector<float>>()))
          << golden.at("text") << " under " << text;
    }
  }
}

TEST(GoldenCascade, Sst2MiniKeepsTheTokensAndLogitsOfItsTraining) { MeetsGolden(SmallModel(), 1); }

TEST(GoldenCascade, AgnewsMiniKeepsTheTokensAndLogitsOfItsTraining) {
  const auto model = testing::SharedPath("models/agnews-mini");
  THRESHER_REQUIRE_SHARED(model);
  MeetsGolden(model, 3);
}

TEST(GoldenCascade, TheFirstDropFollowsFromTheStoredAttention) {
  // Without the model: column sums of the stored first-layer attention (the mean over 6 heads).
  int detailed = 0;
  const nlohmann::json cases = Golden(SmallModel());
  for (const auto& golden : cases) {
    if (!golden.contains("attention_first_layer")) continue;
    ++detailed;
    const std::vector<std::vector<double>> attention = golden.at("attention_first_layer");
    const auto tokens = static_cast<int32_t>(attention.size());
    AttentionRecord record = {.column_sums = std::vector<double>(tokens, 0.0)};
    for (const auto& row : attention) {
      for (int32_t j = 0; j < tokens; ++j) record.column_sums[j] += 6 * row[j];
    }
    std::vector<int32_t> positions(tokens);
    std::iota(positions.begin(), positions.end(), 0);
    for (const auto& pruned : golden.at("pruned")) {
      const auto policy =
          Make("spatten:final=" + std::to_string(pruned.at("final_keep_ratio").get<double>()),
               {.layers = 6, .heads = 6, .kv_heads = 6, .head_dim = 32});
      CascadeDecision decision = {.rows = positions, .heads = {0, 1, 2, 3, 4, 5}};
      policy->Start(tokens, std::vector<int32_t>{0})
          ->AfterAttention(0, positions, record, &decision);
      EXPECT_EQ(decision.rows, pruned.at("positions_per_layer")[1].get<std::vector<int32_t>>());
    }
  }
  EXPECT_EQ(detailed, 4);
}

TEST(GoldenCascade, EveryCountIsTheSchedules) {
  const nlohmann::json cases = Golden(SmallModel());
  for (const auto& golden : cases) {
    const auto tokens = static_cast<int64_t>(golden.at("input_ids").size());
    for (const auto& pruned : golden.at("pruned")) {
      const Schedule schedule =
          ScheduleByFinal(6, 1, pruned.at("final_keep_ratio"), ScheduleKind::kRamp);
      for (size_t l = 0; l < 6; ++l) {
        EXPECT_EQ(static_cast<int64_t>(pruned.at("positions_per_layer")[l].size()),
                  KeepCount(tokens, schedule[l]));
      }
    }
  }
}

/// What one policy does to the texts below, against dense.
struct Totals {
  double kl = 0;
  int64_t queries_skipped = 0;
  double probability_skipped = 0;  // In the mean of the skipped queries.
  double hit_rate = 0;
};

/// Eight texts of ordinary length (the golden file's first cases are the odd ones).
class Texts {
 public:
  Texts() : bert_(SmallModel()) {
    const nlohmann::json cases = Golden(SmallModel());
    for (size_t i = 8; i < 16; ++i) {
      ids_.push_back(cases[i].at("input_ids"));
      dense_.push_back(cases[i].at("logits"));
    }
  }

  Totals Under(const std::string& text) {
    Totals totals;
    const auto policy = Make(text, bert_.shape());
    int64_t quarter = 0;
    int64_t predicted = 0;
    for (size_t i = 0; i < ids_.size(); ++i) {
      const BertRun run = bert_.Run(ids_[i], *policy);
      totals.kl += KlDivergence(dense_[i], run.logits) / static_cast<double>(ids_.size());
      totals.queries_skipped += run.queries_skipped;
      totals.probability_skipped += run.probability_skipped;
      quarter += run.top_quarter;
      predicted += run.top_quarter_predicted;
    }
    totals.probability_skipped /= std::max<double>(1, static_cast<double>(totals.queries_skipped));
    totals.hit_rate = static_cast<double>(predicted) / static_cast<double>(quarter);
    return totals;
  }

 private:
  Bert bert_;
  std::vector<std::vector<int32_t>> ids_;
  std::vector<std::vector<float>> dense_;
};

TEST(FactOnRealWeights, ThePredictionFindsMostOfTheTopQuarter) {
  Texts texts;
  const Totals totals = texts.Under("fact:topk=0.25");
  RecordProperty("hit_rate", std::to_string(totals.hit_rate));
  RecordProperty("kl", std::to_string(totals.kl));
  EXPECT_GT(totals.hit_rate, 0.6);
}

TEST(FactOnRealWeights, OnlyALargeGapSkipsNearlyOneHotRows) {
  Texts texts;
  double last = 1;
  for (const char* gap : {"1", "2", "3"}) {
    const Totals large = texts.Under(std::string("fact:qskip=gap,gap=") + gap);
    EXPECT_GT(large.queries_skipped, 0);
    EXPECT_LT(large.probability_skipped, last);
    last = large.probability_skipped;
    RecordProperty(std::string("gap_") + gap, std::to_string(large.queries_skipped) + " " +
                                                  std::to_string(large.probability_skipped) + " " +
                                                  std::to_string(large.kl));
  }
  EXPECT_LT(last, 0.25);
  // The other way round no gap is safe: rows without a leader lose most of what they attend to.
  const Totals small = texts.Under("fact:qskip=small-gap,gap=0.1");
  RecordProperty("small", std::to_string(small.queries_skipped) + " " +
                              std::to_string(small.probability_skipped) + " " +
                              std::to_string(small.kl));
  EXPECT_GT(small.probability_skipped, 0.75);
}

}  // namespace
}  // namespace thresher
