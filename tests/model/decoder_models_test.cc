// Decoders that others trained.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "tests/golden/golden.h"
#include "tests/model/decoder_testing.h"
#include "tests/model/safetensors_builder.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using ::testing::FloatNear;
using testing::LoadedDecoder;
using ::testing::Pointwise;
using testing::TextCache;
using testing::TextPart;

TEST(DecoderModels, SmallLlamasLoad) {
  for (const char* name : {"models/stories260k", "models/tinystories-656k"}) {
    const auto directory = testing::SharedPath(name);
    THRESHER_REQUIRE_SHARED(directory);
    std::vector<int32_t> ids(100);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(1 + i * 5);
    for (const char* device : {"reference", "cpu"}) {
      const LoadedDecoder loaded(directory.string(), device);
      EXPECT_THAT(loaded.config.bos, ::testing::Optional(1));
      EXPECT_EQ(loaded.config.max_tokens, 512);
      Decoder::Workspace workspace;
      const std::vector<float> logits =
          testing::TextLogits(loaded.decoder, loaded.Layout(), ids, 33, false, workspace);
      EXPECT_TRUE(std::ranges::all_of(logits, [](float x) { return std::isfinite(x); })) << name;
    }
  }
}

/// A tensor of the JSON form: shape, and float32 in base64.
struct Tensor {
  explicit Tensor(const json& from) : shape(from["shape"].get<std::vector<size_t>>()) {
    std::string bytes;
    if (!absl::Base64Unescape(from["data"].get<std::string>(), &bytes))
      throw std::runtime_error("");
    values.resize(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
  }
  /// [out, in] as [in, out].
  void Transpose() {
    std::vector<float> turned;
    for (size_t i = 0; i < shape[1]; ++i) {
      for (size_t o = 0; o < shape[0]; ++o) turned.push_back(values[o * shape[1] + i]);
    }
    values = turned;
    std::swap(shape[0], shape[1]);
  }

  std::vector<size_t> shape;
  std::vector<float> values;
};

/// nanogpt-sort as a Hugging Face directory. It was written by minGPT, whose linear layers are
/// [out, in] where GPT-2's checkpoints have [in, out].
class SortModel {
 public:
  explicit SortModel(const std::filesystem::path& from) {
    const json model = json::parse(std::ifstream(from / "gpt-nano-sort-model.json"));
    const json& shape = model["config"];
    const json config = {
        {"architectures", {"GPT2LMHeadModel"}}, {"model_type", "gpt2"},
        {"vocab_size", shape["vocab_size"]},    {"n_embd", shape["n_embd"]},
        {"n_layer", shape["n_layer"]},          {"n_head", shape["n_head"]},
        {"n_positions", shape["block_size"]},   {"activation_function", "gelu_new"},
        {"tie_word_embeddings", false}};
    testing::WriteText(temp_.path() / "config.json", config.dump());
    json header = json::object();
    std::string data;
    for (const auto& [name, value] : model.items()) {
      if (name == "config") continue;
      Tensor tensor(value);
      const bool linear = name.find("c_") != std::string::npos && tensor.shape.size() == 2;
      if (linear) tensor.Transpose();
      const size_t bytes = tensor.values.size() * sizeof(float);
      header[name] = {{"dtype", "F32"},
                      {"shape", tensor.shape},
                      {"data_offsets", {data.size(), data.size() + bytes}}};
      data.append(reinterpret_cast<const char*>(tensor.values.data()), bytes);
    }
    testing::WriteText(temp_.path() / "model.safetensors",
                       testing::SafetensorsFile(header.dump(), 0) + data);
  }
  std::string directory() const { return temp_.path().string(); }

 private:
  testing::TempDir temp_;
};

class SortingDecoder : public ::testing::TestWithParam<const char*> {};

TEST_P(SortingDecoder, EveryIntermediateResultIsTheAuthors) {
  const auto from = testing::SharedPath("models/nanogpt-sort");
  THRESHER_REQUIRE_SHARED(from);
  const SortModel model(from);
  const LoadedDecoder loaded(model.directory(), GetParam());
  const json partials = json::parse(std::ifstream(from / "gpt-nano-sort-t0-partials.json"));
  const KvLayout layout = loaded.Layout();
  const Tensor ids(partials["idx"]);
  std::vector<TextCache> caches = testing::Caches(ids.shape[0], layout);
  std::vector<TextPart> parts;
  for (size_t s = 0; s < caches.size(); ++s) {
    const auto first = ids.values.begin() + static_cast<ptrdiff_t>(s * ids.shape[1]);
    parts.push_back({&caches[s], {first, first + static_cast<ptrdiff_t>(ids.shape[1])}, false});
  }
  Decoder::Workspace workspace;
  std::vector<std::vector<float>> hidden;
  const std::vector<float> logits =
      testing::RunParts(loaded.decoder, layout, parts, workspace, &hidden);
  const char* names[] = {"x", "block0", "block1", "block2"};
  ASSERT_EQ(hidden.size(), std::size(names));
  for (size_t i = 0; i < hidden.size(); ++i) {
    EXPECT_THAT(hidden[i], Pointwise(FloatNear(2e-5f), Tensor(partials[names[i]]).values))
        << names[i];
  }
  EXPECT_THAT(logits, Pointwise(FloatNear(2e-5f), Tensor(partials["lm_head"]).values));
}

TEST_P(SortingDecoder, SortsEverySequenceOfSixDigits) {
  const auto from = testing::SharedPath("models/nanogpt-sort");
  THRESHER_REQUIRE_SHARED(from);
  const SortModel model(from);
  const LoadedDecoder loaded(model.directory(), GetParam());
  const KvLayout layout = loaded.Layout();
  constexpr size_t kDigits = 6, kInputs = 729;
  std::vector<TextCache> caches = testing::Caches(kInputs, layout);
  std::vector<TextPart> parts;
  std::vector<std::vector<int32_t>> expected, sorted(kInputs);
  for (size_t n = 0; n < kInputs; ++n) {
    std::vector<int32_t> digits;
    for (size_t d = 0, rest = n; d < kDigits; ++d, rest /= 3) {
      digits.push_back(static_cast<int32_t>(rest % 3));
    }
    parts.push_back({&caches[n], digits, false});
    std::ranges::sort(digits);
    expected.push_back(digits);
  }
  Decoder::Workspace workspace;
  for (size_t step = 0; step < kDigits; ++step) {
    const std::vector<float> logits = testing::RunParts(loaded.decoder, layout, parts, workspace);
    size_t row = 0;
    for (size_t n = 0; n < kInputs; ++n) {
      row += parts[n].ids.size();
      const auto last = logits.begin() + static_cast<ptrdiff_t>((row - 1) * 3);
      const auto token = static_cast<int32_t>(std::max_element(last, last + 3) - last);
      sorted[n].push_back(token);
      parts[n] = {&caches[n], {token}, true};
    }
  }
  EXPECT_EQ(sorted, expected);
}

INSTANTIATE_TEST_SUITE_P(All, SortingDecoder, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace thresher
