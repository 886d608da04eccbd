#include "client/load/texts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace thresher::load {
namespace {

using ::testing::HasSubstr;

int64_t Words(const std::string& text) { return 1 + std::count(text.begin(), text.end(), ' '); }

TEST(LengthsTest, ANumberIsThatLength) {
  Random random(1);
  EXPECT_EQ(Lengths::Parse("64")->Draw(random), 64);
  EXPECT_EQ(Lengths::Parse("fixed:value=7")->Draw(random), 7);
}

TEST(LengthsTest, LogNormalHasItsMeanAndItsLimit) {
  const auto lengths = Lengths::Parse("lognormal:mean=64,max=512");
  ASSERT_TRUE(lengths.ok()) << lengths.status();
  Random random(2);
  double sum = 0;
  for (int i = 0; i < 20'000; ++i) {
    const int64_t length = lengths->Draw(random);
    ASSERT_GE(length, 1);
    ASSERT_LE(length, 512);
    sum += static_cast<double>(length);
  }
  EXPECT_NEAR(sum / 20'000, 64, 1);
  const auto cut = Lengths::Parse("lognormal:mean=64,min=60,max=65");
  for (int i = 0; i < 100; ++i) EXPECT_NEAR(cut->Draw(random), 62.5, 2.5);
}

TEST(LengthsTest, UniformTakesBothEnds) {
  const auto lengths = Lengths::Parse("uniform:min=3,max=5");
  Random random(3);
  std::set<int64_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(lengths->Draw(random));
  EXPECT_EQ(seen, (std::set<int64_t>{3, 4, 5}));
}

TEST(LengthsTest, MistakesAreNamed) {
  const auto error = [](std::string_view text) {
    const auto lengths = Lengths::Parse(text);
    EXPECT_EQ(lengths.status().code(), absl::StatusCode::kInvalidArgument) << text;
    return std::string(lengths.status().message());
  };
  EXPECT_THAT(error("zipf:mean=3"), HasSubstr("'zipf' is no distribution"));
  EXPECT_THAT(error("lognormal:mean=x"), HasSubstr("'mean=x' is not KEY=NUMBER"));
  EXPECT_THAT(error("lognormal:mean=4,mean=5"), HasSubstr("'mean' comes twice"));
  EXPECT_THAT(error("lognormal:mean=4,top=5"), HasSubstr("no 'top' here"));
  for (const char* text : {"", "0", "-3", "1e99", "nan", "uniform:min=5,max=3", "lognormal",
                           "lognormal:mean=4,sigma=-1", "lognormal:mean=4,max=0.5",
                           "normal:mean=inf", "uniform:min=0,max=3", "64:"}) {
    error(text);
  }
}

TEST(TextsTest, EveryLineComesOnceBeforeAnyComesAgain) {
  std::vector<Text> texts;
  for (int i = 0; i < 20; ++i) texts.push_back({.text = std::to_string(i), .label = i});
  const auto source = MakeTexts(texts, 9);
  std::vector<std::string> rounds[2];
  for (auto& round : rounds) {
    std::set<std::string> seen;
    for (int i = 0; i < 20; ++i) {
      const Text text = source->Next();
      EXPECT_EQ(text.text, std::to_string(*text.label));
      round.push_back(text.text);
      seen.insert(text.text);
    }
    EXPECT_EQ(seen.size(), 20u);
  }
  EXPECT_NE(rounds[0], rounds[1]);
  const auto again = MakeTexts(texts, 9);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(again->Next().text, rounds[0][i]);
}

TEST(TextsTest, DrawnTextsHaveTheLengthAndFollowTheSeed) {
  const Lengths lengths = *Lengths::Parse("12");
  const auto one = MakeTexts(lengths, 4);
  const auto same = MakeTexts(lengths, 4);
  const auto other = MakeTexts(lengths, 5);
  const std::string text = one->Next().text;
  EXPECT_EQ(Words(text), 12);
  EXPECT_EQ(same->Next().text, text);
  EXPECT_NE(other->Next().text, text);
}

}  // namespace
}  // namespace thresher::load
