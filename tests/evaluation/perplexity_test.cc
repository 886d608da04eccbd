#include "backend/evaluation/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "backend/engine/sampler.h"
#include "tests/engine/decoder_engine_testing.h"
#include "tests/golden/golden.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using testing::MakeDecoder;
using testing::MakeDevice;

std::shared_ptr<DecoderEngine> Llama() {
  return MakeDecoder(testing::GoldenDir("decoder-llama3"), MakeDevice("cpu"));
}

TEST(Perplexity, IsThatOfTheLogits) {
  const auto engine = Llama();
  const std::vector<std::vector<int32_t>> windows = {testing::RandomIds(*engine, 20, 1),
                                                     testing::RandomIds(*engine, 30, 2)};
  const auto result = MeasurePerplexity(*engine, windows, "dense", {.prompt = 3});
  ASSERT_TRUE(result.ok()) << result.status();
  double loss = 0.0;
  for (const auto& ids : windows) {
    for (size_t i = 3; i < ids.size(); ++i) {
      loss -= LogProbability(testing::RunAlone(*engine, std::span(ids).first(i), 0, nullptr)[0],
                             ids[i]);
    }
  }
  EXPECT_EQ(result->tokens, 17 + 27);
  EXPECT_EQ(result->windows, 2);
  EXPECT_EQ(result->steps, 16 + 26);
  EXPECT_NEAR(result->loss, loss / 44, 1e-5);
  EXPECT_GT(result->standard_error, 0);
  EXPECT_EQ(result->policy, "dense");
  EXPECT_EQ(result->decode.bytes().done(), result->decode.bytes().dense());
  EXPECT_EQ(result->held.done(), result->held.dense());
}

TEST(Perplexity, APolicyReadsOrHoldsLess) {
  const auto engine = Llama();
  const std::vector<std::vector<int32_t>> windows(3, testing::RandomIds(*engine, 40, 1));
  const auto less = MeasurePerplexity(*engine, windows, "spatten:keep=0.5", {});
  ASSERT_TRUE(less.ok()) << less.status();
  EXPECT_LT(less->decode.bytes().done(), 0.6 * static_cast<double>(less->decode.bytes().dense()));
  EXPECT_EQ(less->held.done(), less->held.dense());
  const auto held = MeasurePerplexity(*engine, windows, "sinks:first=1,recent=9", {});
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_LT(held->held.done(), 0.3 * static_cast<double>(held->held.dense()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(MeasurePerplexity(*engine, windows, "nonsense", {}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      MeasurePerplexity(*engine, windows, "dense", {.prompt = 40}).status()));
}

class StoriesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    THRESHER_REQUIRE_SHARED(directory_);
    THRESHER_REQUIRE_SHARED(data_);
    engine_ = MakeDecoder(directory_.string(), MakeDevice("cpu", 2));
    tokenizer_ = Tokenizer::Load(directory_.string()).value();
    std::stringstream text;
    text << std::ifstream(data_).rdbuf();
    text_ = text.str();
  }
  const std::filesystem::path directory_ = testing::SharedPath("models/stories260k");
  const std::filesystem::path data_ = testing::SharedPath("data/tinystories_val_yuninxia.txt");
  std::shared_ptr<DecoderEngine> engine_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::string text_;
};

TEST_F(StoriesTest, LossIsNearThePublishedOne) {
  // The file has lost its separators; that stories begin "Once upon a time" tells most of them.
  const int64_t limit = testing::kSanitized ? 8 : 100;
  const auto windows =
      CutWindows(*tokenizer_, *engine_, text_, {.document = "Once upon a time", .limit = limit});
  ASSERT_TRUE(windows.ok()) << windows.status();
  const auto result = MeasurePerplexity(*engine_, *windows, "dense", {});
  ASSERT_TRUE(result.ok()) << result.status();
  // 1.2968 over the authors' validation set. This text is another one, cut by a rule of thumb: all
  // of its 713 documents give 1.484, the first 300 give 1.269 (docs/quality.md).
  EXPECT_NEAR(result->loss, 1.2968, 0.25);
}

TEST_F(StoriesTest, WindowsAreCutAsTold) {
  const auto plain = CutWindows(*tokenizer_, *engine_, text_, {.tokens = 100, .limit = 7});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->size(), 7);
  for (const auto& window : *plain) {
    EXPECT_EQ(window.size(), 100);
    EXPECT_EQ(window[0], 1);  // BOS.
  }
  const auto documents =
      CutWindows(*tokenizer_, *engine_, "x\nOnce a\n\nOnce b c\nd\nNot Once", {.document = "Once"});
  ASSERT_TRUE(documents.ok()) << documents.status();
  ASSERT_EQ(documents->size(), 2);
  EXPECT_EQ(tokenizer_->Decode((*documents)[0], true).value(), "Once a");
  EXPECT_EQ(tokenizer_->Decode((*documents)[1], true).value(), "Once b c\nd\nNot Once");
  for (const WindowOptions& bad : {WindowOptions{.tokens = 1}, WindowOptions{.tokens = 513},
                                   WindowOptions{.document = "?!"}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CutWindows(*tokenizer_, *engine_, text_, bad).status()));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(CutWindows(*tokenizer_, *engine_, "too short", {}).status()));
}

}  // namespace
}  // namespace thresher
