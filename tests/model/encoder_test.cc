// The encoder layer by layer against hidden states that PyTorch computed.
#include "backend/model/encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "backend/model/tensor_names.h"
#include "tests/golden/golden.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::FloatNear;
using ::testing::Pointwise;

/// An encoder with all that it stands on.
struct LoadedEncoder {
  explicit LoadedEncoder(const std::string& directory)
      : config(*LoadModelConfig(directory)),
        device(*CreateDevice("reference", {})),
        checkpoint(*Checkpoint::Open(directory)),
        reader(checkpoint, *device, Precision::kF32, NamesOf(config.family).prefix),
        encoder(*Encoder::Load(config, reader)) {}

  ModelConfig config;
  std::unique_ptr<Device> device;
  Checkpoint checkpoint;
  WeightReader reader;
  Encoder encoder;
};

/// A dense layer.
absl::Status RunLayer(const Encoder& encoder, size_t layer, std::span<const int32_t> offsets,
                      Encoder::Workspace& workspace) {
  const std::vector<const SequencePlan*> plans(offsets.size() - 1, nullptr);
  return encoder.RunLayer(layer, offsets, plans, {}, workspace);
}

absl::Status RunAll(const Encoder& encoder, const RaggedBatch& batch,
                    Encoder::Workspace& workspace) {
  absl::Status status = encoder.Embed(batch, workspace);
  for (size_t i = 0; i < encoder.layers(); ++i) {
    status.Update(RunLayer(encoder, i, batch.offsets, workspace));
  }
  return status;
}

/// Runs one sequence and calls `check(state, hidden)` after the embeddings (0) and after each
/// layer.
template <typename Check>
void Walk(const LoadedEncoder& loaded, const std::vector<int32_t>& ids,
          const std::vector<int32_t>& type_ids, Check check) {
  const std::vector<int32_t> offsets = {0, static_cast<int32_t>(ids.size())};
  Encoder::Workspace workspace;
  ASSERT_TRUE(loaded.encoder.Embed({ids, type_ids, offsets}, workspace).ok());
  check(size_t{0}, ConstMatrix(workspace.hidden()));
  for (size_t i = 0; i < loaded.encoder.layers(); ++i) {
    ASSERT_TRUE(RunLayer(loaded.encoder, i, offsets, workspace).ok());
    check(i + 1, ConstMatrix(workspace.hidden()));
  }
}

std::span<const float> All(ConstMatrix m) { return {m.data, static_cast<size_t>(m.rows * m.cols)}; }

class EncoderGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(EncoderGolden, EveryHiddenStateAgrees) {
  const LoadedEncoder loaded(testing::GoldenDir(GetParam()));
  const nlohmann::json golden = testing::ReadGolden(testing::GoldenDir(GetParam()));
  size_t checked = 0;
  for (const nlohmann::json& c : golden["cases"]) {
    if (!c.contains("hidden_states")) continue;
    Walk(loaded, testing::Ids(c["ids"]), testing::Ids(c["type_ids"]),
         [&](size_t state, ConstMatrix hidden) {
           EXPECT_THAT(All(hidden),
                       Pointwise(FloatNear(2e-5f), testing::Floats(c["hidden_states"][state])))
               << "state " << state;
           ++checked;
         });
  }
  EXPECT_EQ(checked, 3u);
}

INSTANTIATE_TEST_SUITE_P(All, EncoderGolden, ::testing::ValuesIn(testing::kGoldenModels),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Encoder, HiddenStatesOfTheTrainedModelAgree) {
  const std::string directory = (testing::SourceDir() / "models/sst2-mini").string();
  const LoadedEncoder loaded(directory);
  const nlohmann::json golden = testing::ReadGolden(directory);
  size_t checked = 0;
  for (const nlohmann::json& c : golden["cases"]) {
    if (!c.contains("cls_hidden")) continue;
    const std::vector<int32_t> ids = testing::Ids(c["input_ids"]);
    Walk(loaded, ids, std::vector<int32_t>(ids.size()), [&](size_t state, ConstMatrix hidden) {
      EXPECT_THAT(hidden.row_span(0),
                  Pointwise(FloatNear(1e-4f), testing::Floats(c["cls_hidden"][state])))
          << "state " << state;
      ++checked;
    });
  }
  EXPECT_EQ(checked, 4u * 7u);
}

TEST(Encoder, AWarmWorkspaceGivesTheSameAnswers) {
  const LoadedEncoder loaded(testing::GoldenDir("bert-plain"));
  const std::vector<int32_t> ids = {2, 9, 17, 3};
  const std::vector<int32_t> many(30, 11);
  const std::vector<int32_t> types(30);
  const std::vector<int32_t> offsets = {0, 4};
  const std::vector<int32_t> many_offsets = {0, 12, 30};
  const RaggedBatch batch = {ids, std::span(types).first(4), offsets};
  Encoder::Workspace fresh;
  ASSERT_TRUE(RunAll(loaded.encoder, batch, fresh).ok());
  Encoder::Workspace warm;
  ASSERT_TRUE(RunAll(loaded.encoder, {many, types, many_offsets}, warm).ok());
  const float* memory = warm.hidden().data;
  ASSERT_TRUE(RunAll(loaded.encoder, batch, warm).ok());
  EXPECT_EQ(warm.hidden().data, memory);  // Reused, not allocated anew.
  EXPECT_TRUE(std::ranges::equal(All(warm.hidden()), All(fresh.hidden())));
}

}  // namespace
}  // namespace thresher
