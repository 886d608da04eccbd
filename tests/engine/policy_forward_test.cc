// Policies on a real model: the golden cascade, the account, invariance, and that nothing kept
// means nothing changed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backend/engine/loaded_model.h"
#include "backend/sparsity/report.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

struct Case {
  std::string device;
  float tolerance;
};

class PolicyForwardTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    auto device = CreateDevice(GetParam().device, {.threads = 2});
    ASSERT_TRUE(device.ok()) << device.status();
    auto model = LoadModel((testing::SourceDir() / "models/sst2-mini").string(), *std::move(device),
                           {.precision = Precision::kF32});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    std::ifstream file(testing::SourceDir() / "models/sst2-mini/golden.json");
    golden_ = nlohmann::json::parse(file);
  }

  Sequence MakeSequence(const nlohmann::json& ids, const std::string& policy) const {
    Sequence sequence{.ids = ids.get<std::vector<int32_t>>(), .want_logits = true};
    sequence.want_embedding = true;
    sequence.detail = {.layers = true, .tokens = true, .distribution = true};
    if (!policy.empty()) {
      auto parsed = model_->engine->ParsePolicy(policy);
      EXPECT_TRUE(parsed.ok()) << parsed.status();
      sequence.policy = *std::move(parsed);
    }
    return sequence;
  }

  std::vector<SequenceOutput> Run(const std::vector<Sequence>& sequences) const {
    std::vector<const Sequence*> pointers;
    for (const Sequence& sequence : sequences) {
      EXPECT_TRUE(model_->engine->Validate(sequence).ok());
      pointers.push_back(&sequence);
    }
    std::vector<SequenceOutput> outputs(sequences.size());
    const absl::Status status = model_->engine->Run(pointers, outputs);
    EXPECT_TRUE(status.ok()) << status;
    for (const SequenceOutput& output : outputs) EXPECT_TRUE(output.status.ok()) << output.status;
    return outputs;
  }

  std::unique_ptr<LoadedModel> model_;
  nlohmann::json golden_;
};

TEST_P(PolicyForwardTest, MeetsTheGoldenCascade) {
  for (const auto& example : golden_["cases"]) {
    for (const auto& pruned : example["pruned"]) {
      const double ratio = pruned["final_keep_ratio"];
      const auto outputs =
          Run({MakeSequence(example["input_ids"], fmt::format("spatten:final={}", ratio))});
      const v1::PruningReport& report = outputs[0].report;
      const auto& layers = pruned["positions_per_layer"];
      ASSERT_EQ(report.token_layers_size(), static_cast<int>(example["input_ids"].size()));
      for (size_t layer = 0; layer < layers.size(); ++layer) {
        std::vector<int> present;
        for (int t = 0; t < report.token_layers_size(); ++t) {
          if (report.token_layers(t) > static_cast<int>(layer)) present.push_back(t);
        }
        ASSERT_EQ(present, layers[layer].get<std::vector<int>>())
            << example["text"] << ", final " << ratio << ", layer " << layer;
      }
      for (size_t i = 0; i < pruned["logits"].size(); ++i) {
        ASSERT_NEAR(outputs[0].logits[i], pruned["logits"][i].get<float>(), GetParam().tolerance)
            << example["text"] << ", final " << ratio;
      }
    }
  }
}

TEST_P(PolicyForwardTest, KeepingEverythingHasTheBitsOfDense) {
  const auto& ids = golden_["cases"][5]["input_ids"];
  const auto dense = Run({MakeSequence(ids, "")});
  for (const char* policy :
       {"dense", "spatten:final=1", "spatten:keep=1", "fact:topk=1,threshold=0", "powerbert",
        "powerbert:counts=512/512/512/512/512/512", "ltp:thresholds=0/0/0/0/0/0.000001", "tome",
        "mnnfast", "act:beta=1"}) {
    const auto kept = Run({MakeSequence(ids, policy)});
    EXPECT_EQ(kept[0].logits, dense[0].logits) << policy;
    EXPECT_EQ(kept[0].embedding, dense[0].embedding) << policy;
    for (const auto& [kind, share] : KeepRatios(kept[0].report.total())) {
      EXPECT_EQ(share, 1.0) << policy << ": " << kind;
    }
  }
}

TEST_P(PolicyForwardTest, SameBitsAloneAndBesideOtherPolicies) {
  const char* policies[] = {"",
                            "spatten:final=0.4",
                            "spatten:final=0.5,heads=0.5,values=0.5",
                            "spatten:final=0.7,bits=6/4,refetch=0.1",
                            "fact:topk=0.25,threshold=0.01,ffn=0.5,qskip=gap",
                            "spatten:final=0.6+fact:topk=0.5",
                            "fact:topk=0.5,ffn=0.5,ffnbits=4",
                            "powerbert:final=0.4",
                            "ltp:final=0.1",
                            "tome:final=0.4",
                            "mnnfast:threshold=0.02",
                            "act:first=1,alpha=2",
                            "a3",
                            "routing:keep=0.3",
                            "tome:merge=2+spatten:final=0.7+mnnfast:threshold=0.01"};
  std::vector<Sequence> together;
  for (size_t i = 0; i <= std::size(policies); ++i) {
    together.push_back(
        MakeSequence(golden_["cases"][i]["input_ids"], policies[i % std::size(policies)]));
  }
  const auto batch = Run(together);
  for (size_t i = 0; i < together.size(); ++i) {
    const auto alone = Run({together[i]});
    EXPECT_EQ(alone[0].logits, batch[i].logits) << i;
    EXPECT_EQ(alone[0].embedding, batch[i].embedding) << i;
    EXPECT_EQ(alone[0].report.SerializeAsString(), batch[i].report.SerializeAsString()) << i;
  }
}

TEST_P(PolicyForwardTest, TheAccountAddsUpAndDoneIsWithinDense) {
  for (const char* policy :
       {"spatten:final=0.4,heads=0.5,values=0.3,bits=6/4", "fact:topk=0.25,ffn=0.5",
        "spatten:keep=0.7+fact:topk=0.25", "powerbert:final=0.5", "ltp:final=0.05",
        "tome:merge=3+mnnfast:threshold=0.02"}) {
    const auto outputs = Run({MakeSequence(golden_["cases"][7]["input_ids"], policy)});
    const v1::PruningReport& report = outputs[0].report;
    v1::PruningReport::Work sum;
    for (const auto& layer : report.layers()) AddWork(layer, &sum);
    EXPECT_EQ(sum.SerializeAsString(), report.total().SerializeAsString()) << policy;
    int64_t rows = 0;
    for (const int layers : report.token_layers()) rows += layers;
    EXPECT_EQ(rows, report.total().tokens().done()) << policy;
    for (const auto& [kind, share] : KeepRatios(report.total())) {
      EXPECT_GT(share, 0.0) << policy << ": " << kind;
      EXPECT_LE(share, 1.0) << policy << ": " << kind;
    }
    EXPECT_LT(report.total().bytes().done(), report.total().bytes().dense()) << policy;
    EXPECT_GT(report.attention_entropy(), 0.0);
  }
}

TEST_P(PolicyForwardTest, FewerBitsOfTheLowPrecisionNetworkDriftFurther) {
  const auto& ids = golden_["cases"][7]["input_ids"];
  const auto drift = [&](const char* policy) {
    const auto full = Run({MakeSequence(ids, "fact:topk=0.9")});
    const auto low = Run({MakeSequence(ids, policy)});
    double sum = 0.0;
    for (size_t i = 0; i < full[0].embedding.size(); ++i) {
      sum += std::abs(full[0].embedding[i] - low[0].embedding[i]);
    }
    return sum;
  };
  const double eight = drift("fact:topk=0.9,ffn=0.2");
  EXPECT_GT(eight, 0.0);
  EXPECT_GT(drift("fact:topk=0.9,ffn=0.2,ffnbits=4"), 3.0 * eight);
}

TEST_P(PolicyForwardTest, OneTokenRunsUnderEveryPolicy) {
  for (const char* policy :
       {"spatten:final=0.1", "fact:topk=0.1,ffn=0.5", "spatten:final=0.2,values=0.1,bits=4/4",
        "powerbert:final=0.1", "ltp:final=1,protect=none", "tome:merge=9,protect=none",
        "mnnfast:threshold=1", "act:first=0,alpha=0.5"}) {
    Sequence one = MakeSequence(std::vector<int32_t>{2}, policy);
    const auto outputs = Run({one});
    EXPECT_EQ(outputs[0].report.total().tokens().done(), 6) << policy;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, PolicyForwardTest,
                         ::testing::Values(Case{"reference", 1e-4f}, Case{"cpu", 1e-3f}),
                         [](const auto& info) { return info.param.device; });

}  // namespace
}  // namespace thresher
