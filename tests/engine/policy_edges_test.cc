// Policies at their edges, through the engine: the shortest inputs, the smallest and largest
// counts, scores that are all equal, scores that are no numbers.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "backend/sparsity/report.h"
#include "tests/engine/engine_testing.h"
#include "tests/testing/paths.h"
#include "tests/testing/random_checkpoint.h"

namespace thresher {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kLayers = 4;
constexpr const char* kPolicies[] = {
    "spatten:final=0.3",
    "spatten:keep=0.5,heads=0.5,values=0.2,bits=6/4",
    "spatten:keep=0.4,schedule=flat,importance=inverse",
    "spatten:final=0.2,importance=random,protect=none",
    "fact:topk=0.2,threshold=0.05,ffn=0.3,qskip=gap",
    "fact:topk=0.5,qskip=small-gap,gap=1",
    "spatten:final=0.3,heads=0.5+fact:topk=0.3,ffn=0.5",
    "powerbert:counts=9/7/7/2,protect=none",
    "ltp:final=0.5,protect=none+fact:topk=0.5,ffn=0.5",
    "tome:merge=5+spatten:final=0.5,heads=0.5",
    "a3:setting=approximate+spatten:final=0.4,heads=0.5",
    "routing:keep=0.2+powerbert:final=0.3",
    "mnnfast:threshold=0.2+act:first=0,threshold=0,beta=0",
};

class PolicyEdgesTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const absl::Status written =
        testing::WriteRandomCheckpoint(directory_.path(), {.layers = kLayers,
                                                           .hidden_size = 32,
                                                           .heads = 4,
                                                           .intermediate_size = 64,
                                                           .vocab_size = 128,
                                                           .positions = 64});
    ASSERT_TRUE(written.ok()) << written;
  }

  std::unique_ptr<EncoderEngine> Load() const {
    return testing::MakeEngine(directory_.path().string(), testing::MakeDevice(GetParam()));
  }

  /// Overwrites columns of `row` (-1: the whole) of every tensor whose name holds `name`.
  void Patch(const std::string& name, int64_t row, float value) const {
    const auto path = directory_.path() / "model.safetensors";
    std::stringstream read;
    read << std::ifstream(path, std::ios::binary).rdbuf();
    std::string bytes = read.str();
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof(header));
    const nlohmann::json tensors = nlohmann::json::parse(bytes.substr(8, header));
    bool found = false;
    for (const auto& [key, tensor] : tensors.items()) {
      if (key.find(name) == std::string::npos) continue;
      found = true;
      const int64_t begin = tensor["data_offsets"][0], end = tensor["data_offsets"][1];
      const int64_t width = row < 0 ? end - begin : tensor["shape"].back().get<int64_t>() * 4;
      char* at = bytes.data() + 8 + header + begin + std::max<int64_t>(row, 0) * width;
      for (int64_t i = 0; i < width / 4; ++i) std::memcpy(at + 4 * i, &value, 4);
    }
    ASSERT_TRUE(found) << name;
    std::ofstream(path, std::ios::binary) << bytes;
  }

  static Sequence Ask(const EncoderEngine& engine, std::vector<int32_t> ids,
                      const std::string& policy) {
    Sequence sequence{.ids = std::move(ids), .want_logits = true};
    sequence.detail = {.layers = true, .tokens = true, .distribution = true};
    auto parsed = engine.ParsePolicy(policy);
    EXPECT_TRUE(parsed.ok()) << policy << ": " << parsed.status();
    sequence.policy = *std::move(parsed);
    return sequence;
  }

  static std::vector<int32_t> Ids(int32_t count) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < count; ++i) ids.push_back(2 + i * 7 % 100);
    return ids;
  }

  static std::vector<int32_t> TokenLayers(const SequenceOutput& output) {
    return {output.report.token_layers().begin(), output.report.token_layers().end()};
  }

  /// What holds of every report.
  static void CheckReport(const v1::PruningReport& report) {
    ASSERT_EQ(report.layers_size(), kLayers);
    v1::PruningReport::Work sum;
    for (int l = 0; l < kLayers; ++l) {
      const auto& layer = report.layers(l);
      AddWork(layer, &sum);
      for (const KindOfWork& kind : kKindsOfWork) {
        EXPECT_LE((layer.*kind.amount)().done(), (layer.*kind.amount)().dense()) << kind.name;
      }
      EXPECT_LE(layer.bytes().done(), layer.bytes().dense());
      EXPECT_GE(layer.tokens().done(), 1);
      EXPECT_GE(layer.heads().done(), 1);
      if (l == 0) continue;
      // Cascades: what has gone stays gone.
      EXPECT_LE(layer.tokens().done(), report.layers(l - 1).tokens().done());
      EXPECT_LE(layer.heads().done(), report.layers(l - 1).heads().done());
    }
    EXPECT_EQ(sum.SerializeAsString(), report.total().SerializeAsString());
    int64_t rows = 0;
    for (const int32_t layers : report.token_layers()) rows += layers;
    EXPECT_EQ(rows, report.total().tokens().done());
  }

  testing::TempDir directory_;
};

TEST_P(PolicyEdgesTest, ShortInputsRunUnderEveryPolicy) {
  const auto engine = Load();
  for (const char* policy : kPolicies) {
    for (const int32_t length : {1, 2, 3, 5, 64}) {
      SCOPED_TRACE(fmt::format("{} on {} tokens", policy, length));
      const auto outputs = testing::RunBatch(*engine, {Ask(*engine, Ids(length), policy)});
      CheckReport(outputs[0].report);
    }
  }
}

TEST_P(PolicyEdgesTest, InputsShorterThanTheProtectedSetAreKeptWhole) {
  const auto engine = Load();
  const auto outputs =
      testing::RunBatch(*engine, {Ask(*engine, Ids(5), "spatten:final=0.1,first=9")});
  EXPECT_THAT(TokenLayers(outputs[0]), Each(kLayers));
  // More protected ones than the share allows: exactly they stay.
  const auto more = testing::RunBatch(*engine, {Ask(*engine, Ids(8), "spatten:final=0.1,first=3")});
  std::vector<int32_t> whole;
  for (int32_t i = 0; i < 8; ++i) {
    if (TokenLayers(more[0])[i] == kLayers) whole.push_back(i);
  }
  EXPECT_THAT(whole, ElementsAre(0, 1, 2));
}

TEST_P(PolicyEdgesTest, TheSmallestShareLeavesOneAndTheLargestAll) {
  const auto engine = Load();
  const auto least = testing::RunBatch(
      *engine, {Ask(*engine, Ids(9), "spatten:final=0.000001,heads=0.000001,values=0.000001")});
  CheckReport(least[0].report);
  EXPECT_EQ(least[0].report.layers(kLayers - 1).tokens().done(), 1);
  EXPECT_EQ(least[0].report.layers(kLayers - 1).heads().done(), 1);
  EXPECT_EQ(TokenLayers(least[0])[0], kLayers);  // The protected one.
  const auto all = testing::RunBatch(
      *engine, {Ask(*engine, Ids(9), "spatten:keeps=1/1/1/1,values=1+fact:topk=1")});
  Sequence plain{.ids = Ids(9), .want_logits = true};
  EXPECT_EQ(all[0].logits, testing::RunBatch(*engine, {plain})[0].logits);
  EXPECT_THAT(TokenLayers(all[0]), Each(kLayers));
}

TEST_P(PolicyEdgesTest, MeasuringTheAttentionChangesNoBit) {
  const auto engine = Load();
  std::vector<Sequence> plain, measured;
  for (const char* policy : {"dense", "spatten:final=0.4,heads=0.5", "spatten:keep=0.6,values=0.5",
                             "spatten:final=0.5,bits=4/4", "fact:topk=0.3,qskip=gap"}) {
    measured.push_back(Ask(*engine, Ids(40), policy));
    plain.push_back(measured.back());
    plain.back().detail = {};
  }
  const auto without = testing::RunBatch(*engine, plain);
  const auto with = testing::RunBatch(*engine, measured);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(with[i].logits, without[i].logits) << i;
    EXPECT_TRUE(with[i].report.has_attention_entropy()) << i;
    EXPECT_FALSE(without[i].report.has_attention_entropy()) << i;
    EXPECT_EQ(without[i].report.layers_size(), 0) << i;
    EXPECT_EQ(with[i].report.total().SerializeAsString(),
              without[i].report.total().SerializeAsString())
        << i;
  }
}

TEST_P(PolicyEdgesTest, OfEqualScoresTheFirstStay) {
  // Without queries every score is 0 and every row uniform.
  Patch("attention.self.query", -1, 0.0f);
  const auto engine = Load();
  for (const char* policy : {"spatten:final=0.5", "spatten:final=0.5,importance=inverse"}) {
    const auto outputs = testing::RunBatch(*engine, {Ask(*engine, Ids(8), policy)});
    // One layer is untouched; then ceil(8 x 5/6, 4/6, 3/6).
    EXPECT_THAT(TokenLayers(outputs[0]), ElementsAre(4, 4, 4, 4, 3, 3, 2, 1)) << policy;
    EXPECT_GT(outputs[0].report.attention_entropy(), std::log(4.0) - 1e-5);
  }
  const auto chosen = testing::RunBatch(*engine, {Ask(*engine, Ids(8), "fact:topk=0.25,ffn=0.25")});
  // Two keys for each query, the first two: of K and V 2 rows of 8, of Q all.
  const auto& rows = chosen[0].report.layers(0).qkv_rows();
  EXPECT_EQ(rows.done(), 4 * (8 + 2 + 2));
}

TEST_P(PolicyEdgesTest, NumbersThatAreNoneFailAloneAndAreCountedAsEver) {
  // No checkpoint may hold NaN, but token 50 at position 1 overflows the sum of its embeddings.
  Patch("word_embeddings.weight", 50, std::numeric_limits<float>::max());
  Patch("position_embeddings.weight", 1, 1e32f);
  const auto engine = Load();
  for (const char* policy : kPolicies) {
    SCOPED_TRACE(policy);
    const std::vector<Sequence> sequences = {Ask(*engine, {2, 50, 9, 11, 30, 3}, policy),
                                             Ask(*engine, {2, 51, 9, 11, 30, 3}, policy)};
    std::vector<SequenceOutput> outputs(2);
    const Sequence* pointers[] = {&sequences[0], &sequences[1]};
    const absl::Status status = engine->Run(pointers, outputs);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(outputs[0].status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(Message(outputs[0].status), HasSubstr("not finite"));
    EXPECT_TRUE(outputs[1].status.ok()) << outputs[1].status;
    CheckReport(outputs[0].report);
    CheckReport(outputs[1].report);
    // The healthy one has the bits that it has alone.
    EXPECT_EQ(outputs[1].logits, testing::RunBatch(*engine, {sequences[1]})[0].logits);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, PolicyEdgesTest, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace thresher
