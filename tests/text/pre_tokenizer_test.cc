#include "backend/text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/text/byte_level.h"
#include "backend/text/unicode.h"
#include "tests/text/tokenizer_testing.h"

namespace thresher::text {
namespace {

using ::testing::ElementsAre;
using Words = std::vector<std::string>;

Words Split(const PreTokenizer& splitter, std::string_view text) {
  std::vector<Span> spans;
  splitter.Split(text, {0, static_cast<int32_t>(text.size())}, spans);
  Words words;
  for (const Span& span : spans) words.emplace_back(span.In(text));
  return words;
}

Words Gpt2(std::string_view text) {
  std::vector<Span> spans;
  SplitLikeGpt2(text, {0, static_cast<int32_t>(text.size())}, spans);
  Words words;
  for (const Span& span : spans) words.emplace_back(span.In(text));
  return words;
}

TEST(PreTokenizerTest, Bert) {
  EXPECT_THAT(Split(*MakeBertPreTokenizer(), " Hi, isn't\u3000it?! “yes” 5€ "),
              ElementsAre("Hi", ",", "isn", "'", "t", "it", "?", "!", "“", "yes", "”", "5€"));
  EXPECT_THAT(Split(*MakeBertPreTokenizer(), ""), ElementsAre());
  EXPECT_THAT(Split(*MakeBertPreTokenizer(), " \t"), ElementsAre());
}

TEST(PreTokenizerTest, Whitespace) {
  EXPECT_THAT(Split(*MakeWhitespace(), "a_1 b-- é's\n½"),
              ElementsAre("a_1", "b", "--", "é", "'", "s", "½"));
  EXPECT_THAT(Split(*MakeWhitespaceSplit(), " a-b\u00a0 c"), ElementsAre("a-b", "c"));
}

TEST(PreTokenizerTest, PunctuationBehaviors) {
  const std::string text = "the-final--cut";
  const auto split = [&](DelimiterBehavior b) { return Split(*MakePunctuation(b), text); };
  EXPECT_THAT(split(DelimiterBehavior::kRemoved), ElementsAre("the", "final", "cut"));
  EXPECT_THAT(split(DelimiterBehavior::kIsolated),
              ElementsAre("the", "-", "final", "-", "-", "cut"));
  EXPECT_THAT(split(DelimiterBehavior::kMergedWithPrevious),
              ElementsAre("the-", "final-", "-", "cut"));
  EXPECT_THAT(split(DelimiterBehavior::kMergedWithNext), ElementsAre("the", "-final", "-", "-cut"));
  EXPECT_THAT(split(DelimiterBehavior::kContiguous), ElementsAre("the", "-", "final", "--", "cut"));
}

TEST(PreTokenizerTest, DigitsAndStrings) {
  EXPECT_THAT(Split(*MakeDigits(/*individual=*/true), "a12½b"),
              ElementsAre("a", "1", "2", "½", "b"));
  EXPECT_THAT(Split(*MakeDigits(/*individual=*/false), "a12½b"), ElementsAre("a", "12½", "b"));
  EXPECT_THAT(Split(*MakeSplit(" ", DelimiterBehavior::kMergedWithPrevious), " a  b"),
              ElementsAre(" ", "a ", " ", "b"));
  EXPECT_THAT(Split(*MakeSplit("aa", DelimiterBehavior::kIsolated), "éaaab"),
              ElementsAre("é", "aa", "ab"));
}

TEST(PreTokenizerTest, RegularExpressionsOfLlama3AndQwen2) {
  const std::string llama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
      R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const auto split = [&](std::string_view text) { return Split(*MakeRegexSplit(llama3), text); };
  EXPECT_THAT(split("I'LL isn't  It'\u017f"),
              ElementsAre("I", "'LL", " isn", "'t", " ", " It", "'\u017f"));
  EXPECT_THAT(split("(a) \u00e9t\u00e9-b"), ElementsAre("(a", ")", " \u00e9t\u00e9", "-b"));
  EXPECT_THAT(split("x12345 \u00bd"), ElementsAre("x", "123", "45", " ", "\u00bd"));
  EXPECT_THAT(split("a !!\r\n\n b"), ElementsAre("a", " !!\r\n\n", " b"));
  EXPECT_THAT(split("a \n \n  b  "), ElementsAre("a", " \n \n", " ", " b", "  "));
  EXPECT_THAT(split("\u3000a\u3000.\u3000"), ElementsAre("\u3000a", "\u3000", ".", "\u3000"));
  EXPECT_THAT(split("'"), ElementsAre("'"));
  std::string qwen2 = llama3;
  qwen2.erase(qwen2.find("{1,3}"), 5);
  EXPECT_THAT(Split(*MakeRegexSplit(qwen2), "x123"), ElementsAre("x", "1", "2", "3"));
  EXPECT_EQ(MakeRegexSplit("a+"), nullptr);
}

TEST(PreTokenizerTest, SequenceCutsTheWordsOfTheOneBefore) {
  std::vector<std::unique_ptr<PreTokenizer>> parts;
  parts.push_back(MakeWhitespaceSplit());
  parts.push_back(MakePunctuation(DelimiterBehavior::kIsolated));
  EXPECT_THAT(Split(*MakeSequence(std::move(parts)), "a.b c"), ElementsAre("a", ".", "b", "c"));
}

TEST(Gpt2SplitTest, WordsTakeTheSpaceBefore) {
  EXPECT_THAT(Gpt2("Hello my  friend, 42x"),
              ElementsAre("Hello", " my", " ", " friend", ",", " 42", "x"));
}

TEST(Gpt2SplitTest, Contractions) {
  EXPECT_THAT(Gpt2("I've we'll he'd 's"),
              ElementsAre("I", "'ve", " we", "'ll", " he", "'d", " '", "s"));
  EXPECT_THAT(Gpt2("'tis 'S'ro"), ElementsAre("'t", "is", " '", "S", "'", "ro"));
  EXPECT_THAT(Gpt2("?'s"), ElementsAre("?'", "s"));
}

TEST(Gpt2SplitTest, WhiteSpace) {
  EXPECT_THAT(Gpt2("a   b"), ElementsAre("a", "  ", " b"));
  EXPECT_THAT(Gpt2("a \n b"), ElementsAre("a", " \n", " b"));
  EXPECT_THAT(Gpt2("a \nb"), ElementsAre("a", " ", "\n", "b"));
  EXPECT_THAT(Gpt2("a  "), ElementsAre("a", "  "));
  EXPECT_THAT(Gpt2(" "), ElementsAre(" "));
  EXPECT_THAT(Gpt2("\u3000\u3000x"), ElementsAre("\u3000", "\u3000", "x"));
  EXPECT_THAT(Gpt2(" \u00a0"), ElementsAre(" \u00a0"));
}

TEST(Gpt2SplitTest, MarksAreNotLetters) {
  EXPECT_THAT(Gpt2("e\u0301a½"), ElementsAre("e", "\u0301", "a", "½"));
}

TEST(Gpt2SplitTest, TheWordsTogetherAreTheText) {
  std::mt19937 random(3);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = RandomText(random, 30);
    std::string joined;
    for (const std::string& word : Gpt2(text)) {
      ASSERT_FALSE(word.empty());
      joined += word;
    }
    ASSERT_EQ(joined, text);
  }
}

TEST(ByteLevelTest, SpellingsAreDifferentAndGoBack) {
  std::set<char32_t> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t c = ByteToCharacter(static_cast<unsigned char>(byte));
    EXPECT_TRUE(seen.insert(c).second);
    EXPECT_FALSE(IsWhitespace(c));
    EXPECT_EQ(CharacterToByte(c), byte);
  }
  EXPECT_EQ(ByteToCharacter(' '), U'Ġ');
  EXPECT_EQ(ByteToCharacter('\n'), U'Ċ');
  EXPECT_EQ(SpellBytes(" é"), "ĠÃ©");
  EXPECT_FALSE(CharacterToByte(U' '));
  EXPECT_FALSE(CharacterToByte(0x144));
  EXPECT_FALSE(CharacterToByte(U'中'));
}

}  // namespace
}  // namespace thresher::text
