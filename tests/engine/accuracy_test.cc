// The embedded classifier on all of the SST-2 development set.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "backend/engine/loaded_model.h"
#include "tests/engine/engine_testing.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

struct Labelled {
  Sequence sequence;
  int label = 0;
};

std::vector<Labelled> ReadSst2(const std::filesystem::path& path, const LoadedModel& model) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);  // The header.
  std::vector<Labelled> examples;
  while (std::getline(in, line)) {
    const size_t tab = line.rfind('\t');
    const auto encoding = model.tokenizer->Encode(
        line.substr(0, tab), {.max_tokens = model.info.max_tokens, .truncate = true});
    EXPECT_TRUE(encoding.ok()) << encoding.status();
    Labelled& example = examples.emplace_back();
    for (const EncodedToken& token : encoding->tokens) example.sequence.ids.push_back(token.id);
    example.sequence.want_logits = true;
    example.label = line.substr(tab + 1) == "1" ? 1 : 0;
  }
  return examples;
}

int CountRight(Engine& engine, const std::vector<Labelled>& examples) {
  int right = 0;
  for (size_t begin = 0; begin < examples.size(); begin += 64) {
    const size_t end = std::min(begin + 64, examples.size());
    std::vector<Sequence> batch;
    for (size_t i = begin; i < end; ++i) batch.push_back(examples[i].sequence);
    const std::vector<SequenceOutput> outputs = testing::RunBatch(engine, batch);
    for (size_t i = begin; i < end; ++i) {
      const std::vector<float>& logits = outputs[i - begin].logits;
      right += (logits[1] > logits[0] ? 1 : 0) == examples[i].label;
    }
  }
  return right;
}

class Sst2 : public ::testing::TestWithParam<Precision> {};

TEST_P(Sst2, AccuracyIsAsTrained) {
  if (testing::kSanitized) GTEST_SKIP() << "skipped: too slow under a sanitizer";
  const auto data = testing::SharedPath("data/sst2_dev.tsv");
  THRESHER_REQUIRE_SHARED(data);
  const auto model = LoadModel((testing::SourceDir() / "models/sst2-mini").string(),
                               testing::MakeDevice("cpu", 2), {.precision = GetParam()});
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<Labelled> examples = ReadSst2(data, **model);
  ASSERT_EQ(examples.size(), 872u);
  const int right = CountRight(*(*model)->engine, examples);
  if (GetParam() == Precision::kF32) {
    EXPECT_EQ(right, 711);
  } else {
    // Half a point for int8.
    EXPECT_NEAR(right, 711, 872 * (GetParam() == Precision::kInt8 ? 0.005 : 0.003));
  }
}

INSTANTIATE_TEST_SUITE_P(All, Sst2,
                         ::testing::Values(Precision::kF32, Precision::kBF16, Precision::kInt8),
                         [](const auto& info) { return std::string(Name(info.param)); });

}  // namespace
}  // namespace thresher
