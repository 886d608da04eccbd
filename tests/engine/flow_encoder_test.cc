// Encoders whose tokens attend by flow (Flowformer). That they compute what the definition says is
// the golden models' (bert-flow, distilbert-flow-causal); here: what holds of any of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "backend/sparsity/report.h"
#include "tests/engine/engine_testing.h"
#include "tests/golden/golden.h"

namespace thresher {
namespace {

using testing::GoldenDir;
using ::testing::HasSubstr;
using testing::MakeDevice;
using testing::MakeEngine;

constexpr const char* kModels[] = {"bert-flow", "distilbert-flow-causal"};

class FlowEncoder : public ::testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<Device> device_ = MakeDevice(GetParam(), 2);
};
INSTANTIATE_TEST_SUITE_P(Device, FlowEncoder, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return info.param; });

TEST_P(FlowEncoder, ASequenceHasTheSameBitsInAnyBatch) {
  for (const char* name : kModels) {
    const auto engine = MakeEngine(GoldenDir(name), device_);
    const auto sequences = testing::MixedSequences(9, 40, 64, true);
    const auto together = testing::RunBatch(*engine, sequences);
    for (size_t i = 0; i < sequences.size(); ++i) {
      const auto alone = testing::RunBatch(*engine, {sequences[i]});
      EXPECT_EQ(alone[0].logits, together[i].logits) << name;
      EXPECT_EQ(alone[0].embedding, together[i].embedding) << name;
    }
  }
}

TEST_P(FlowEncoder, OnlyTheCausalOneHidesWhatComesLater) {
  for (const char* name : kModels) {
    const auto engine = MakeEngine(GoldenDir(name), device_);
    Sequence sequence{.ids = {2, 9, 31, 12, 40, 3}, .want_logits = true};
    const auto before = testing::RunBatch(*engine, {sequence});
    sequence.ids.back() = 17;
    const auto after = testing::RunBatch(*engine, {sequence});
    // The logits of all tokens but the last.
    const auto cols = static_cast<std::ptrdiff_t>(before[0].logit_cols);
    const auto first_rows = [&](const SequenceOutput& output) {
      return std::vector<float>(output.logits.begin(), output.logits.begin() + 5 * cols);
    };
    EXPECT_EQ(first_rows(before[0]) == first_rows(after[0]),
              std::string(name) == "distilbert-flow-causal");
  }
}

TEST_P(FlowEncoder, PoliciesThatNeedScoresAreRefusedAndOthersRun) {
  const auto engine = MakeEngine(GoldenDir("bert-flow"), device_);
  for (const char* policy : {"spatten:final=0.5", "fact", "mnnfast:threshold=0.1", "tome", "act",
                             "sanger", "routing", "relu+ltp"}) {
    const auto parsed = engine->ParsePolicy(policy);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << policy;
    EXPECT_THAT(Message(parsed.status()), HasSubstr("flow-attention has none")) << policy;
  }
  EXPECT_TRUE(engine->ParsePolicy("dense").ok());
  // Its activation is a ReLU, which a margin that nothing reaches leaves alone.
  auto sequences = testing::MixedSequences(3, 20, 64, true);
  const auto dense = testing::RunBatch(*engine, sequences);
  for (Sequence& sequence : sequences) sequence.policy = *engine->ParsePolicy("relu:margin=1000");
  const auto kept = testing::RunBatch(*engine, sequences);
  for (Sequence& sequence : sequences) sequence.policy = *engine->ParsePolicy("relu:bits=8");
  const auto skipped = testing::RunBatch(*engine, sequences);
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_EQ(kept[i].logits, dense[i].logits);
    const v1::PruningReport::Work& work = skipped[i].report.total();
    EXPECT_LT(work.ffn_outputs().done(), work.ffn_outputs().dense());
  }
}

TEST_P(FlowEncoder, ItsAccountHasNoScoresAndNoEntropy) {
  const auto engine = MakeEngine(GoldenDir("bert-flow"), device_);
  Sequence sequence{.ids = {2, 9, 31, 12, 3}, .want_logits = true};
  const auto plain = testing::RunBatch(*engine, {sequence});
  sequence.detail = {true, true, true, true};
  const auto explained = testing::RunBatch(*engine, {sequence});
  EXPECT_EQ(explained[0].logits, plain[0].logits);
  const v1::PruningReport& report = explained[0].report;
  EXPECT_FALSE(report.has_attention_entropy());
  EXPECT_FALSE(report.has_sink_share());
  EXPECT_EQ(report.total().scores().dense(), 0);
  EXPECT_EQ(report.total().values().done(), 0);
  EXPECT_EQ(report.total().bytes().dense(), 0);
  EXPECT_EQ(report.total().bytes().done(), 0);
  EXPECT_EQ(report.total().softmax_rows(), 0);
  EXPECT_EQ(report.total().tokens().done(), 2 * 5);
  for (const auto& [kind, share] : KeepRatios(report.total())) EXPECT_EQ(share, 1.0) << kind;
}

TEST(FlowEncoders, AreNotSimulated) {
  const auto engine = MakeEngine(GoldenDir("bert-flow"), MakeDevice("sim:spatten@reference"));
  const Sequence sequence{.ids = {2, 9, 3}, .want_logits = true};
  const Sequence* const sequences[] = {&sequence};
  std::vector<SequenceOutput> outputs(1);
  EXPECT_EQ(engine->Run(sequences, outputs).code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace thresher
