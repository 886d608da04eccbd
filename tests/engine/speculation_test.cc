// Speculation on zeros of a ReLU in whole models: decoders of every kind that has one, encoders,
// and the account against what a device was asked for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/device/forwarding_device.h"
#include "tests/engine/decoder_engine_testing.h"
#include "tests/engine/engine_testing.h"
#include "tests/golden/golden.h"

namespace thresher {
namespace {

using testing::GoldenDir;
using ::testing::HasSubstr;
using testing::MakeDecoder;
using testing::MakeDevice;
using testing::MakeEngine;
using testing::MakePolicy;
using testing::RandomIds;
using testing::RunAlone;
using testing::RunStep;
using testing::StartText;

using Rows = std::vector<std::vector<float>>;

/// Norms before and after, with biases and without, weights stored as they are and transposed.
constexpr const char* kDecoders[] = {"decoder-opt", "decoder-opt-350m", "decoder-opt-unbiased",
                                     "decoder-gpt2-options"};
constexpr const char* kEncoders[] = {"bert-answer", "distilbert-answer"};

/// Counts the outputs that it need not compute.
class OutputCounter final : public ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;

  absl::Status LinearOfOutputs(const PackedLinear& weights, ConstMatrix x,
                               std::span<const uint8_t> wanted, Activation activation,
                               Matrix y) override {
    asked += static_cast<int64_t>(wanted.size());
    skipped += std::ranges::count(wanted, 0);
    return ForwardingDevice::LinearOfOutputs(weights, x, wanted, activation, y);
  }

  int64_t asked = 0;
  int64_t skipped = 0;
};

class Speculation : public ::testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<Device> device_ = MakeDevice(GetParam(), 2);
};
INSTANTIATE_TEST_SUITE_P(Device, Speculation, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return info.param; });

v1::PruningReport ReportOf(DecoderEngine& engine, std::string_view policy,
                           std::span<const int32_t> prompt, const ReportDetail& detail) {
  const auto length = static_cast<int32_t>(prompt.size());
  const CachedTextPtr text =
      StartText(engine, MakePolicy(engine, policy), length, length + 3, detail);
  (void)RunStep(engine, {.text = text.get(), .ids = prompt, .prompt_tokens = length});
  for (const int32_t id : {3, 1, 4}) {
    (void)RunStep(engine, {.text = text.get(), .ids = std::span(&id, 1)});
  }
  return DecoderEngine::Report(*text);
}

TEST_P(Speculation, ADecoderThatSkipsNothingIsDense) {
  for (const char* name : kDecoders) {
    SCOPED_TRACE(name);
    const auto engine = MakeDecoder(GoldenDir(name), device_);
    const std::vector<int32_t> prompt = RandomIds(*engine, 20, 2);
    // No prediction is further from zero than the root of the width times the root of the mean
    // square, and no layer here is wider than 1000^2.
    EXPECT_EQ(RunAlone(*engine, prompt, 8, MakePolicy(*engine, "relu:margin=1000")),
              RunAlone(*engine, prompt, 8, nullptr));
    EXPECT_NE(RunAlone(*engine, prompt, 8, MakePolicy(*engine, "relu")),
              RunAlone(*engine, prompt, 8, nullptr));
  }
}

TEST_P(Speculation, APredictionAsGoodAsTheModelIsDense) {
  for (const char* name : kDecoders) {
    SCOPED_TRACE(name);
    const auto engine = MakeDecoder(GoldenDir(name), device_, Precision::kInt8);
    const std::vector<int32_t> prompt = RandomIds(*engine, 20, 2);
    EXPECT_EQ(RunAlone(*engine, prompt, 8, MakePolicy(*engine, "relu:bits=8")),
              RunAlone(*engine, prompt, 8, nullptr));
    const v1::PruningReport report =
        ReportOf(*engine, "relu:bits=8", prompt, {.wrong_zeros = true});
    EXPECT_LT(report.total().ffn_outputs().done(), report.total().ffn_outputs().dense() * 3 / 4);
    EXPECT_EQ(report.total().wrongly_skipped_outputs(), 0);
  }
}

// Inputs of the second layer and later differ in their last bits from device to device, so that one
// of them may round to another integer of four bits: a prediction near the bound then falls on its
// other side. (Of the same inputs devices skip the same: inner_layer_test.)
constexpr double kTolerance = 1e-2;

void ExpectNearly(int64_t actual, int64_t expected) {
  EXPECT_NEAR(static_cast<double>(actual), static_cast<double>(expected),
              0.01 * static_cast<double>(expected) + 2);
}

TEST(SpeculationOfDevices, CpuGivesWhatTheReferenceGives) {
  for (const char* name : kDecoders) {
    SCOPED_TRACE(name);
    const auto reference = MakeDecoder(GoldenDir(name), MakeDevice("reference"));
    const auto cpu = MakeDecoder(GoldenDir(name), MakeDevice("cpu", 2));
    const std::vector<int32_t> prompt = RandomIds(*cpu, 30, 6);
    const Rows dense = RunAlone(*reference, prompt, 0, nullptr);
    for (const char* policy : {"relu", "relu:bits=8", "relu:margin=0.3"}) {
      SCOPED_TRACE(policy);
      const Rows expected = RunAlone(*reference, prompt, 0, MakePolicy(*reference, policy));
      const Rows actual = RunAlone(*cpu, prompt, 0, MakePolicy(*cpu, policy));
      double skipping = 0;  // How far the policy itself goes.
      for (size_t i = 0; i < expected[0].size(); ++i) {
        ASSERT_NEAR(actual[0][i], expected[0][i], kTolerance);
        skipping = std::max(skipping, std::abs(double{expected[0][i]} - dense[0][i]));
      }
      if (std::string_view(policy) == "relu") {
        EXPECT_GT(skipping, kTolerance);
      }
      const auto done = [&](DecoderEngine& engine) {
        return ReportOf(engine, policy, prompt, {}).total().ffn_outputs().done();
      };
      ExpectNearly(done(*cpu), done(*reference));
    }
  }
}

TEST_P(Speculation, AChunkedPromptHasTheSameBits) {
  const std::string directory = GoldenDir("decoder-opt");
  const auto engine = MakeDecoder(directory, device_);
  const std::vector<int32_t> prompt = RandomIds(*engine, 38, 1);
  const Rows whole = RunAlone(*engine, prompt, 6, MakePolicy(*engine, "relu:margin=0.1"));
  for (const size_t chunk : {1, 7, 33}) {
    const auto fresh = MakeDecoder(directory, device_);
    EXPECT_EQ(RunAlone(*fresh, prompt, 6, MakePolicy(*fresh, "relu:margin=0.1"), chunk), whole);
  }
}

TEST_P(Speculation, ATextHasTheSameBitsInAnyCompany) {
  const auto engine = MakeDecoder(GoldenDir("decoder-opt"), device_);
  struct Text {
    std::vector<int32_t> prompt;
    std::string_view policy;
    Rows alone, together;
    CachedTextPtr text;
    int32_t next = 0;
  };
  std::vector<Text> texts;
  constexpr std::string_view kPolicies[] = {"relu", "", "relu:bits=8", "relu:margin=0.2",
                                            "h2o:heavy=0.2,recent=0.2"};
  for (uint32_t i = 0; i < 10; ++i) {
    Text t{.prompt = RandomIds(*engine, 1 + static_cast<int32_t>(i * 7 % 24), 50 + i),
           .policy = kPolicies[i % std::size(kPolicies)]};
    t.alone = RunAlone(*engine, t.prompt, 4, MakePolicy(*engine, t.policy));
    const auto length = static_cast<int32_t>(t.prompt.size());
    t.text = StartText(*engine, MakePolicy(*engine, t.policy), length, length + 4);
    texts.push_back(std::move(t));
  }
  // Those that came earlier generate while the others read their prompts.
  for (size_t step = 0; step < texts.size() + 4; ++step) {
    std::vector<StepPart> parts;
    std::vector<Text*> stepping;
    for (size_t i = 0; i <= std::min(step, texts.size() - 1); ++i) {
      Text& t = texts[i];
      if (t.together.size() == 5) continue;
      StepPart part{.text = t.text.get(), .ids = t.prompt, .logits = StepPart::Logits::kLast};
      if (t.together.empty()) {
        part.prompt_tokens = static_cast<int32_t>(t.prompt.size());
      } else {
        t.next = testing::ArgMaxOf(t.together.back());
        part.ids = std::span(&t.next, 1);
      }
      parts.push_back(part);
      stepping.push_back(&t);
    }
    const absl::Status status =
        engine->Step(parts, [&](size_t part, int32_t, std::span<const float> logits) {
          stepping[part]->together.emplace_back(logits.begin(), logits.end());
        });
    ASSERT_TRUE(status.ok()) << status;
  }
  for (const Text& t : texts) EXPECT_EQ(t.together, t.alone) << t.policy;
}

TEST_P(Speculation, TheAccountIsWhatTheDeviceWasAskedFor) {
  for (const char* name : kDecoders) {
    SCOPED_TRACE(name);
    auto counter =
        std::make_unique<OutputCounter>(CreateDevice(GetParam(), {.threads = 2}).value());
    OutputCounter& counts = *counter;
    const auto engine = MakeDecoder(GoldenDir(name), std::move(counter));
    const std::vector<int32_t> prompt = RandomIds(*engine, 17, 8);
    const v1::PruningReport report = ReportOf(*engine, "relu:margin=0.1", prompt, {});
    const v1::PruningReport::Work& total = report.total();
    const auto& config = engine->config();
    EXPECT_EQ(total.ffn_outputs().dense(), int64_t{20} * config.layers * config.intermediate_size);
    EXPECT_EQ(total.predicted_outputs(), total.ffn_outputs().dense());
    EXPECT_EQ(counts.asked, total.ffn_outputs().dense());
    EXPECT_EQ(counts.skipped, total.ffn_outputs().dense() - total.ffn_outputs().done());
    EXPECT_GT(counts.skipped, 0);
    EXPECT_FALSE(total.has_wrongly_skipped_outputs());
    EXPECT_EQ(report.decode().predicted_outputs(), total.predicted_outputs() * 3 / 20);
    // Explained, it is the same, and what went wrong is told, layer by layer.
    const v1::PruningReport explained =
        ReportOf(*engine, "relu:margin=0.1", prompt, {.layers = true, .wrong_zeros = true});
    EXPECT_EQ(explained.total().ffn_outputs().done(), total.ffn_outputs().done());
    ASSERT_TRUE(explained.total().has_wrongly_skipped_outputs());
    int64_t wrong = 0;
    for (const auto& layer : explained.layers()) wrong += layer.wrongly_skipped_outputs();
    EXPECT_EQ(wrong, explained.total().wrongly_skipped_outputs());
    EXPECT_LT(wrong, counts.skipped);
    EXPECT_GT(
        ReportOf(*engine, "relu", prompt, {.wrong_zeros = true}).total().wrongly_skipped_outputs(),
        0);
  }
}

TEST_P(Speculation, TextsShareAPromptOnlyUnderTheSameRule) {
  const auto engine = MakeDecoder(GoldenDir("decoder-opt"), device_);
  const std::vector<int32_t> prompt = RandomIds(*engine, 40, 4);
  (void)RunAlone(*engine, prompt, 1, MakePolicy(*engine, "relu"));
  const auto found = [&](std::string_view policy) {
    const auto text =
        engine->Start(MakePolicy(*engine, policy), {}, engine->CacheBytes(nullptr, 40, 44), prompt);
    return DecoderEngine::Tokens(**text);
  };
  // Layers after the first have other keys and values.
  EXPECT_EQ(found(""), 0);
  EXPECT_EQ(found("relu:bits=8"), 0);
  EXPECT_EQ(found("relu:margin=0.1"), 0);
  EXPECT_EQ(found("relu"), kKvPageTokens);
}

TEST(SpeculationOfDevices, OtherActivationsAreRefused) {
  for (const char* name : {"decoder-gpt2", "decoder-llama3"}) {
    const auto engine = MakeDecoder(GoldenDir(name), MakeDevice("reference"));
    const auto policy = engine->ParsePolicy("relu");
    EXPECT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(policy.status()), HasSubstr("ReLU"));
  }
  const auto engine = MakeEngine(GoldenDir("bert-plain"), MakeDevice("reference"));
  EXPECT_EQ(engine->ParsePolicy("relu").status().code(), absl::StatusCode::kInvalidArgument);
}

// ---- Encoders ----

std::vector<Sequence> EncoderSequences(const EncoderEngine& engine,
                                       const std::vector<std::string>& policies,
                                       bool explain = false) {
  std::vector<Sequence> sequences = testing::MixedSequences(policies.size(), 24, 64, true);
  for (size_t i = 0; i < sequences.size(); ++i) {
    auto policy = engine.ParsePolicy(policies[i]);
    EXPECT_TRUE(policy.ok()) << policies[i] << ": " << policy.status();
    sequences[i].policy = *std::move(policy);
    sequences[i].detail.layers = sequences[i].detail.wrong_zeros = explain;
  }
  return sequences;
}

const std::vector<std::string> kEncoderPolicies = {"relu",
                                                   "dense",
                                                   "relu:bits=8",
                                                   "spatten:final=0.5+relu:margin=0.1",
                                                   "powerbert:final=0.5+relu",
                                                   "fact:topk=0.5,ffn=0.5+relu:margin=0.2",
                                                   "fact:topk=0.5,ffn=0.5,ffnbits=4+relu:bits=8",
                                                   "relu:margin=0.1"};

TEST_P(Speculation, AnEncoderThatSkipsNothingIsDense) {
  for (const char* name : kEncoders) {
    SCOPED_TRACE(name);
    const auto engine = MakeEngine(GoldenDir(name), device_);
    for (const std::string policy : {"dense", "fact:topk=0.5,ffn=0.5"}) {
      const std::string with =
          policy == "dense" ? "relu:margin=1000" : policy + "+relu:margin=1000";
      const std::string skips = policy == "dense" ? "relu" : policy + "+relu";
      auto sequences = EncoderSequences(*engine, {policy, with, skips});
      sequences[1].ids = sequences[2].ids = sequences[0].ids = {2, 9, 17, 33, 8, 3};
      const auto outputs = testing::RunBatch(*engine, sequences);
      EXPECT_EQ(outputs[1].logits, outputs[0].logits);
      EXPECT_NE(outputs[2].logits, outputs[0].logits);
    }
  }
}

TEST_P(Speculation, AnEncodersSequencesHaveTheSameBitsInAnyBatch) {
  for (const char* name : kEncoders) {
    SCOPED_TRACE(name);
    const auto engine = MakeEngine(GoldenDir(name), device_);
    const auto sequences = EncoderSequences(*engine, kEncoderPolicies, true);
    const auto together = testing::RunBatch(*engine, sequences);
    for (size_t i = 0; i < sequences.size(); ++i) {
      const auto alone = testing::RunBatch(*engine, {sequences[i]});
      EXPECT_EQ(alone[0].logits, together[i].logits) << kEncoderPolicies[i];
      EXPECT_EQ(alone[0].report.SerializeAsString(), together[i].report.SerializeAsString())
          << kEncoderPolicies[i];
    }
  }
}

TEST(SpeculationOfDevices, AnEncoderOnCpuGivesWhatTheReferenceGives) {
  for (const char* name : kEncoders) {
    const auto reference = MakeEngine(GoldenDir(name), MakeDevice("reference"));
    const auto cpu = MakeEngine(GoldenDir(name), MakeDevice("cpu", 2));
    for (const std::string& policy : kEncoderPolicies) {
      // What FACT runs in low precision differs by far more of itself, for the same reason.
      if (policy.find("fact") != policy.npos) continue;
      SCOPED_TRACE(std::string(name) + " " + policy);
      const std::vector<std::string> policies(3, policy);
      const auto expected =
          testing::RunBatch(*reference, EncoderSequences(*reference, policies, true));
      const auto actual = testing::RunBatch(*cpu, EncoderSequences(*cpu, policies, true));
      for (size_t s = 0; s < expected.size(); ++s) {
        for (size_t i = 0; i < expected[s].logits.size(); ++i) {
          ASSERT_NEAR(actual[s].logits[i], expected[s].logits[i], kTolerance);
        }
        const auto& done = actual[s].report.total();
        ExpectNearly(done.ffn_outputs().done(), expected[s].report.total().ffn_outputs().done());
        ExpectNearly(done.wrongly_skipped_outputs(),
                     expected[s].report.total().wrongly_skipped_outputs());
      }
    }
  }
}

TEST_P(Speculation, AnEncodersAccountIsWhatTheDeviceWasAskedFor) {
  auto counter = std::make_unique<OutputCounter>(CreateDevice(GetParam(), {.threads = 2}).value());
  OutputCounter& counts = *counter;
  const auto engine = MakeEngine(GoldenDir("bert-answer"), std::move(counter));
  for (const std::string& policy : kEncoderPolicies) {
    SCOPED_TRACE(policy);
    counts.asked = counts.skipped = 0;
    const auto outputs = testing::RunBatch(*engine, EncoderSequences(*engine, {policy, policy}));
    int64_t present = 0, computed = 0, predicted = 0;
    for (const SequenceOutput& output : outputs) {
      const v1::PruningReport::Work& total = output.report.total();
      // Of two layers, 48 outputs each.
      EXPECT_EQ(total.ffn_outputs().dense(), total.tokens().dense() * 48);
      computed += total.ffn_outputs().done();
      predicted += total.predicted_outputs();
      present += total.tokens().done() * 48;
    }
    EXPECT_EQ(predicted, counts.asked);
    if (policy.find("powerbert") == policy.npos) {
      EXPECT_EQ(present - computed, counts.skipped);
    } else {
      EXPECT_EQ(predicted - computed, counts.skipped);  // Tokens leave before that network.
    }
    EXPECT_EQ(counts.skipped > 0, policy != "dense");
  }
}

}  // namespace
}  // namespace thresher
