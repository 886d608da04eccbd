// Decoders against logits that PyTorch computed, and against themselves: however a text comes, in
// chunks, token by token, beside others, its logits are the same.
#include "backend/model/decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "backend/tensor/status.h"
#include "tests/golden/golden.h"
#include "tests/model/decoder_testing.h"
#include "tests/model/safetensors_builder.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using testing::LoadedDecoder;
using ::testing::Pointwise;
using testing::TextCache;
using testing::TextLogits;
using testing::TextPart;

class DecoderGolden : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  DecoderGolden()
      : loaded_(testing::GoldenDir(std::get<0>(GetParam())), std::get<1>(GetParam())),
        golden_(testing::ReadGolden(testing::GoldenDir(std::get<0>(GetParam())))) {}

  float tolerance() const {
    return std::string_view(std::get<1>(GetParam())) == "reference" ? 1e-4f : 1e-3f;
  }
  const std::vector<int32_t> Longest() const {
    return testing::Ids(golden_["cases"].back()["ids"]);
  }

  /// Checks every case's logits when its text comes `chunk` tokens at a time.
  void Check(const KvLayout& layout, size_t chunk, bool decode) {
    for (const nlohmann::json& c : golden_["cases"]) {
      EXPECT_THAT(
          TextLogits(loaded_.decoder, layout, testing::Ids(c["ids"]), chunk, decode, workspace_),
          Pointwise(FloatNear(tolerance()), testing::Floats(c["logits"])));
    }
  }

  LoadedDecoder loaded_;
  nlohmann::json golden_;
  Decoder::Workspace workspace_;
};

TEST_P(DecoderGolden, LogitsOfAWholePromptAgree) { Check(loaded_.Layout(), 1000, false); }

TEST_P(DecoderGolden, LogitsOfGeneratedTokensAgree) { Check(loaded_.Layout(), 1, true); }

TEST_P(DecoderGolden, APromptHasTheSameBitsInChunks) {
  const KvLayout layout = loaded_.Layout();
  const std::vector<int32_t> ids = Longest();
  const std::vector<float> whole =
      TextLogits(loaded_.decoder, layout, ids, ids.size(), false, workspace_);
  for (const size_t chunk : {1, 7, 32, 40}) {
    EXPECT_EQ(TextLogits(loaded_.decoder, layout, ids, chunk, false, workspace_), whole) << chunk;
  }
}

TEST_P(DecoderGolden, ATextHasTheSameBitsBesideOthers) {
  const KvLayout layout = loaded_.Layout();
  const std::vector<int32_t> ids = Longest();
  const auto vocabulary = static_cast<size_t>(loaded_.config.vocab_size);
  std::vector<float> alone;
  {
    TextCache cache(layout);
    for (const TextPart& part : {TextPart{&cache, {ids.begin(), ids.end() - 1}, false},
                                 TextPart{&cache, {ids.back()}, true}}) {
      const auto rows = testing::RunParts(loaded_.decoder, layout, std::span(&part, 1), workspace_);
      alone.insert(alone.end(), rows.begin(), rows.end());
    }
  }
  // The same beside a text that is generated and one that is read, which is behind by a step.
  TextCache cache(layout), written(layout), read(layout);
  const TextPart parts[3][3] = {
      {{&written, {9, 8, 7}, false}, {&read, {5}, false}, {&read, {6}, false}},
      {{&written, {3}, true},
       {&cache, {ids.begin(), ids.end() - 1}, false},
       {&read, {4, 4}, false}},
      {{&read, {11, 12, 13, 14}, false}, {&written, {3}, true}, {&cache, {ids.back()}, true}}};
  testing::RunParts(loaded_.decoder, layout, parts[0], workspace_);
  std::vector<float> rows = testing::RunParts(loaded_.decoder, layout, parts[1], workspace_);
  std::vector<float> beside(rows.begin() + vocabulary, rows.begin() + ids.size() * vocabulary);
  rows = testing::RunParts(loaded_.decoder, layout, parts[2], workspace_);
  beside.insert(beside.end(), rows.end() - vocabulary, rows.end());
  EXPECT_EQ(beside, alone);
}

INSTANTIATE_TEST_SUITE_P(All, DecoderGolden,
                         ::testing::Combine(::testing::ValuesIn(testing::kGoldenDecoders),
                                            ::testing::Values("reference", "cpu")),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name + "_" + std::get<1>(info.param);
                         });

/// Root mean square of a - b over that of b.
double RelativeError(std::span<const float> a, std::span<const float> b) {
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < b.size(); ++i) {
    error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += double{b[i]} * b[i];
  }
  return std::sqrt(error / size);
}

TEST(Decoder, LowerPrecisionsStayNear) {
  for (const char* model : testing::kGoldenDecoders) {
    const nlohmann::json golden = testing::ReadGolden(testing::GoldenDir(model));
    const nlohmann::json& longest = golden["cases"].back();
    for (const auto& [precision, most] :
         {std::pair(Precision::kBF16, 0.02), std::pair(Precision::kInt8, 0.06)}) {
      const LoadedDecoder loaded(testing::GoldenDir(model), "cpu", precision);
      Decoder::Workspace workspace;
      const std::vector<float> logits = TextLogits(
          loaded.decoder, loaded.Layout(), testing::Ids(longest["ids"]), 1000, false, workspace);
      EXPECT_LT(RelativeError(logits, testing::Floats(longest["logits"])), most)
          << model << " " << Name(precision);
    }
  }
}

TEST(Decoder, KeysMayBeRotatedAsTheyAreRead) {
  for (const char* model : {"decoder-llama-tied", "decoder-llama3", "decoder-llama-yarn"}) {
    const nlohmann::json golden = testing::ReadGolden(testing::GoldenDir(model));
    const nlohmann::json& longest = golden["cases"].back();
    for (const char* device : {"reference", "cpu"}) {
      const LoadedDecoder loaded(testing::GoldenDir(model), device);
      const KvLayout layout = loaded.Layout({.planes = {}, .rotate_on_read = true});
      Decoder::Workspace workspace;
      for (const bool decode : {false, true}) {
        EXPECT_THAT(TextLogits(loaded.decoder, layout, testing::Ids(longest["ids"]),
                               decode ? 1 : 1000, decode, workspace),
                    Pointwise(FloatNear(1e-3f), testing::Floats(longest["logits"])))
            << model << " " << device;
      }
    }
  }
}

TEST(Decoder, TextsWhoseCachesAreKeptDifferentlyShareABatch) {
  for (const char* device : {"reference", "cpu"}) {
    const LoadedDecoder loaded(testing::GoldenDir("decoder-llama3"), device);
    const KvLayout layouts[] = {loaded.Layout(),
                                loaded.Layout({.planes = {}, .rotate_on_read = true})};
    const int32_t ids[] = {5, 6, 7, 8, 9, 5, 6, 7, 8, 9};
    const int32_t positions[] = {0, 1, 2, 3, 4, 0, 1, 2, 3, 4};
    const DecoderBatch batch = {ids, positions};
    TextCache caches[] = {TextCache(layouts[0]), TextCache(layouts[1])};
    const CachedSequence sequences[] = {caches[0].Extend(5, 5, false),
                                        caches[1].Extend(0, 5, false)};
    CachedRecord records[2];
    std::vector<CacheGroup> groups;
    for (size_t g = 0; g < 2; ++g) {
      groups.push_back({&layouts[g], std::span(&sequences[g], 1), std::span(&records[g], 1)});
    }
    Decoder::Workspace workspace;
    ASSERT_TRUE(loaded.decoder.Embed(batch, workspace).ok());
    for (int32_t i = 0; i < loaded.config.layers; ++i) {
      ASSERT_TRUE(loaded.decoder.RunLayer(i, batch, groups, workspace).ok());
    }
    MatrixBuffer logits(10, loaded.config.vocab_size);
    const std::vector<int32_t> rows = {5, 6, 7, 8, 9, 0, 1, 2, 3, 4};  // By group.
    ASSERT_TRUE(loaded.decoder.Logits(rows, workspace, logits.view()).ok());
    const float* const begin = logits.view().data;
    const int64_t half = 5 * int64_t{loaded.config.vocab_size};
    for (size_t g = 0; g < 2; ++g) {
      EXPECT_EQ(
          std::vector<float>(begin + g * half, begin + (g + 1) * half),
          TextLogits(loaded.decoder, layouts[g], std::span(ids).first(5), 5, false, workspace))
          << device << " " << g;
    }
  }
}

TEST(Decoder, CountsEachParameterOnce) {
  // 64 x 32 + 48 x 32 of tables; three layers of 32 x 96 + 96, 32 x 32 + 32, 2 x 32 x 40 + 40 + 32
  // and 4 x 32; the final norm. The head is the word table.
  EXPECT_EQ(LoadedDecoder(testing::GoldenDir("decoder-gpt2")).reader.parameters(),
            64 * 32 + 48 * 32 + 3 * (33 * 96 + 33 * 32 + 2 * 32 * 40 + 72 + 128) + 64);
}

/// A copy of a golden directory whose config.json is changed.
class ChangedDecoder {
 public:
  ChangedDecoder(const char* model, const std::string& field, const nlohmann::json& value) {
    std::filesystem::copy(testing::GoldenDir(model), temp_.path(),
                          std::filesystem::copy_options::recursive);
    auto config = nlohmann::json::parse(testing::ReadText(temp_.path() / "config.json"));
    config[field] = value;
    testing::WriteText(temp_.path() / "config.json", config.dump());
  }
  absl::Status Load() const {
    const std::string directory = temp_.path().string();
    const auto config = LoadDecoderConfig(directory);
    if (!config.ok()) return config.status();
    const auto device = CreateDevice("reference", {});
    const auto checkpoint = Checkpoint::Open(directory);
    WeightReader reader(*checkpoint, **device, Precision::kF32, NamesOf(config->family).prefix);
    return Decoder::Load(*config, reader).status();
  }

 private:
  testing::TempDir temp_;
};

TEST(Decoder, WeightsThatContradictTheConfigAreRefused) {
  struct Case {
    const char* model;
    const char* field;
    nlohmann::json value;
    std::vector<const char*> parts;
  };
  const Case cases[] = {
      {"decoder-llama-tied",
       "vocab_size",
       65,
       {"model.embed_tokens.weight", "[64, 32]", "[65, 32]"}},
      {"decoder-gpt2", "vocab_size", 63, {"transformer.wte.weight", "[64, 32]", "[63, 32]"}},
      {"decoder-gpt2", "n_positions", 50, {"transformer.wpe.weight", "[48, 32]", "[50, 32]"}},
      {"decoder-gpt2", "n_inner", 41, {"transformer.h.0.mlp.c_fc.weight", "[32, 40]", "[32, 41]"}},
      {"decoder-gpt2", "n_layer", 4, {"transformer.h.3.attn.c_attn.weight", "missing"}},
      {"decoder-gpt2", "tie_word_embeddings", false, {"lm_head.weight", "missing"}},
      {"decoder-opt", "max_position_embeddings", 50, {"embed_positions", "[50, 32]", "[52, 32]"}},
      {"decoder-opt", "word_embed_proj_dim", 16, {"embed_tokens.weight", "[64, 16]"}},
      {"decoder-opt-unbiased", "enable_bias", true, {"q_proj.bias", "missing"}},
      {"decoder-llama3", "head_dim", 16, {"q_proj.weight", "[48, 32]", "[64, 32]"}},
      {"decoder-llama3", "num_key_value_heads", 4, {"k_proj.weight", "[24, 32]", "[48, 32]"}},
  };
  for (const Case& c : cases) {
    const absl::Status status = ChangedDecoder(c.model, c.field, c.value).Load();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.model << " " << c.field;
    for (const char* part : c.parts) EXPECT_THAT(Message(status), HasSubstr(part)) << c.field;
  }
}

TEST(Decoder, IdsAndPositionsOutsideTheTablesAreRefused) {
  for (const char* model : {"decoder-gpt2", "decoder-opt-350m"}) {
    const LoadedDecoder loaded(testing::GoldenDir(model));
    Decoder::Workspace workspace;
    for (const auto& [id, position] : {std::pair(64, 0), std::pair(-1, 0), std::pair(1, 48)}) {
      const DecoderBatch batch = {std::span(&id, 1), std::span(&position, 1)};
      EXPECT_EQ(loaded.decoder.Embed(batch, workspace).code(), absl::StatusCode::kInvalidArgument);
    }
  }
}

}  // namespace
}  // namespace thresher
