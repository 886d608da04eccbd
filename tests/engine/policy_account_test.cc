// The account of real runs against what a device counted while they ran.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "backend/engine/loaded_model.h"
#include "backend/sparsity/report.h"
#include "tests/engine/counting_device.h"
#include "tests/engine/engine_testing.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using Counts = testing::CountingDevice::Counts;
using Work = v1::PruningReport::Work;

class PolicyAccountTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string directory = (testing::SourceDir() / "models/sst2-mini").string();
    auto checkpoint = Checkpoint::Open(directory);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = std::make_unique<Checkpoint>(*std::move(checkpoint));
    const auto config = LoadModelConfig(directory);
    ASSERT_TRUE(config.ok()) << config.status();
    auto device = CreateDevice(GetParam(), {.threads = 2});
    ASSERT_TRUE(device.ok()) << device.status();
    const int64_t head = config->head_dim();
    device_ = std::make_shared<testing::CountingDevice>(
        *std::move(device), *checkpoint_, config->layers,
        std::map<std::string, int64_t>{{"attention.self.query", head},
                                       {"attention.self.key", head},
                                       {"attention.self.value", head},
                                       {"attention.output.dense", config->hidden_size},
                                       {"intermediate.dense", config->intermediate_size},
                                       {"output.dense", config->hidden_size}});
    auto model = LoadModel(directory, device_, {.precision = Precision::kF32});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    std::ifstream file(testing::SourceDir() / "models/sst2-mini/golden.json");
    golden_ = nlohmann::json::parse(file);
  }

  Sequence MakeSequence(size_t example, const std::string& policy, bool measure) const {
    Sequence sequence{.ids = golden_["cases"][example]["input_ids"].get<std::vector<int32_t>>(),
                      .want_logits = true};
    sequence.detail = {.tokens = true, .distribution = measure};
    auto parsed = model_->engine->ParsePolicy(policy);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    if (parsed.ok()) sequence.policy = *std::move(parsed);
    return sequence;
  }

  std::unique_ptr<Checkpoint> checkpoint_;  // Outlives the device.
  std::shared_ptr<testing::CountingDevice> device_;
  std::unique_ptr<LoadedModel> model_;
  nlohmann::json golden_;
};

/// Any policy, of every technique by itself and with others.
std::string RandomPolicy(std::mt19937& random) {
  const auto chance = [&] { return random() % 2 == 0; };
  const auto share = [&] { return (5 + random() % 95) / 100.0; };
  std::string spatten = fmt::format("spatten:final={}", chance() ? share() : 1.0);
  if (chance()) spatten += fmt::format(",heads={}", share());
  if (chance()) spatten += fmt::format(",values={}", share());
  if (chance()) spatten += ",bits=6/4,refetch=0.2";
  if (chance()) spatten += ",importance=random,seed=3";
  if (chance()) spatten += ",protect=none";
  std::string fact = fmt::format("fact:topk={}", share());
  if (chance()) fact += ",threshold=0.02";
  if (chance()) fact += fmt::format(",ffn={}", share());
  if (fact.find("ffn") != std::string::npos && chance()) fact += ",ffnbits=4";
  if (chance()) fact += ",qskip=gap,gap=0.5";
  switch (random() % 6) {
    case 0:
      return "dense";
    case 1:
      return spatten;
    case 2:
      return fact;
    case 3:
      return fmt::format("{}:final={}", chance() ? "powerbert" : "tome", share());
    case 4:
      return fmt::format("ltp:final={}+{}+mnnfast:threshold=0.02", share() / 5, spatten);
    default:
      return spatten + "+" + fact;
  }
}

TEST_P(PolicyAccountTest, SumsEqualWhatTheDeviceRan) {
  std::mt19937 random(5);
  for (int round = 0; round < (testing::kSanitized ? 6 : 40); ++round) {
    std::vector<Sequence> sequences;
    std::string described;
    for (size_t s = 0; s < 1 + random() % 4; ++s) {
      const std::string policy = RandomPolicy(random);
      described += policy + "; ";
      sequences.push_back(MakeSequence(random() % golden_["cases"].size(), policy, false));
    }
    SCOPED_TRACE(described);
    const bool leaves =  // Tokens, before the feed-forward network.
        described.find("powerbert") != std::string::npos ||
        described.find("tome") != std::string::npos || described.find("ltp") != std::string::npos;
    device_->Take();
    const auto outputs = testing::RunBatch(*model_->engine, sequences);
    Counts counts = device_->Take();
    Work sum;
    for (const SequenceOutput& output : outputs) AddWork(output.report.total(), &sum);

    const auto ran = [&](const char* module, Precision precision = Precision::kF32) {
      return counts.linear[{module, precision}];
    };
    EXPECT_EQ(ran("attention.self.query") + ran("attention.self.key") + ran("attention.self.value"),
              sum.qkv_rows().done());
    EXPECT_EQ(ran("attention.output.dense"), sum.tokens().done());
    for (const char* module : {"intermediate.dense", "output.dense"}) {
      EXPECT_EQ(ran(module), sum.ffn_full_precision().done()) << module;
      // The others in low precision, or, having left before, not at all.
      EXPECT_LE(ran(module, Precision::kInt8) + ran(module, Precision::kInt4),
                sum.tokens().done() - sum.ffn_full_precision().done())
          << module;
      if (!leaves) {
        EXPECT_EQ(ran(module, Precision::kInt8) + ran(module, Precision::kInt4),
                  sum.tokens().done() - sum.ffn_full_precision().done())
            << module;
      }
    }
    EXPECT_EQ(counts.predicted_rows, sum.predicted_rows());
    EXPECT_EQ(counts.predicted_scores, sum.predicted_scores());
    EXPECT_GE(counts.encoded_rows, sum.predicted_rows());  // Heads that are gone included.
    if (sum.heads().done() == sum.heads().dense()) {
      EXPECT_EQ(counts.encoded_rows, sum.predicted_rows());
    }
  }
}

TEST_P(PolicyAccountTest, SinkIsOfTheLayersThatTheFirstTokenReached) {
  int dropped = 0;
  for (size_t example = 0; example < 12; ++example) {
    device_->Take();
    const auto outputs = testing::RunBatch(
        *model_->engine,
        {MakeSequence(example, "spatten:final=0.3,importance=inverse,protect=none", true)});
    const Counts counts = device_->Take();
    const v1::PruningReport& report = outputs[0].report;
    const auto reached = static_cast<size_t>(report.token_layers(0));
    ASSERT_LE(reached, counts.records.size());
    dropped += reached < counts.records.size();
    double sink = 0.0, entropy = 0.0;
    int64_t sink_rows = 0, rows = 0;
    for (size_t layer = 0; layer < counts.records.size(); ++layer) {
      const AttentionRecord& record = counts.records[layer][0];
      for (const double head : record.entropy_sums) entropy += head;
      rows += record.rows;
      if (layer >= reached) continue;
      for (const double head : record.sink_sums) sink += head;
      sink_rows += record.rows;
    }
    EXPECT_NEAR(report.sink_share(), sink / static_cast<double>(sink_rows), 1e-12);
    EXPECT_NEAR(report.attention_entropy(), entropy / static_cast<double>(rows), 1e-12);
  }
  EXPECT_GT(dropped, 0);
}

INSTANTIATE_TEST_SUITE_P(Devices, PolicyAccountTest, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace thresher
