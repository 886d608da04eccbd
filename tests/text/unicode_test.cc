#include "backend/text/unicode.h"

#include <gtest/gtest.h>

#include "tests/text/tokenizer_testing.h"

namespace thresher::text {
namespace {

TEST(UnicodeTest, FindsTheFirstInvalidByte) {
  const std::pair<std::string, std::optional<size_t>> kCases[] = {
      {"", std::nullopt},
      {"plain ascii, longer than eight bytes", std::nullopt},
      {"caf\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\xA6\x99", std::nullopt},
      {"\xF4\x8F\xBF\xBF \xED\x9F\xBF \xEE\x80\x80", std::nullopt},
      {"abcdefgh\x80", 8},          // A continuation byte alone.
      {"ab\xC3", 2},                // Cut off.
      {"ab\xC3(", 2},               // Not continued.
      {"\xC0\xAF", 0},              // Overlong.
      {"\xE0\x9F\xBF", 0},          // Overlong.
      {"\xF0\x8F\xBF\xBF", 0},      // Overlong.
      {"x\xED\xA0\x80", 1},         // A surrogate.
      {"\xF4\x90\x80\x80", 0},      // Past U+10FFFF.
      {"\xE4\xB8\xAD\xE4\xB8", 3},  // Cut off after whole ones.
      {std::string("a\0b\xFF", 4), 3},
  };
  for (const auto& [text, expected] : kCases) {
    EXPECT_EQ(FindInvalidUtf8(text), expected) << nlohmann::json(ReplaceInvalidUtf8(text));
  }
}

TEST(UnicodeTest, ReplacesEachMaximalInvalidSequence) {
  EXPECT_EQ(ReplaceInvalidUtf8("a\x80z"), "a\uFFFDz");
  EXPECT_EQ(ReplaceInvalidUtf8("\xE4\xB8z"), "\uFFFDz");                // One for a cut-off one.
  EXPECT_EQ(ReplaceInvalidUtf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // Never could be one.
  EXPECT_EQ(ReplaceInvalidUtf8("\xF0\x9F\xA6"), "\uFFFD");
  EXPECT_EQ(ReplaceInvalidUtf8("\xC3\xA9\xC3"), "\u00e9\uFFFD");
}

TEST(UnicodeTest, EveryCharacterGoesThereAndBack) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, text);
    ASSERT_FALSE(FindInvalidUtf8(text)) << std::hex << static_cast<uint32_t>(c);
    size_t position = 0;
    ASSERT_EQ(NextCharacter(text, position), c);
    ASSERT_EQ(position, text.size());
    ASSERT_EQ(PreviousCharacter(text, position), c);
    ASSERT_EQ(position, 0u);
    ASSERT_EQ(CountCharacters(text), 1u);
  }
}

TEST(UnicodeTest, Classes) {
  EXPECT_TRUE(IsWhitespace(U'\u3000') && IsWhitespace(U'\v') && IsWhitespace(U'\u0085'));
  EXPECT_FALSE(IsWhitespace(U'\u200b') || IsWhitespace(0x1C));
  EXPECT_TRUE(IsLetter(U'é') && IsLetter(U'中') && IsLetter(U'ª'));
  EXPECT_FALSE(IsLetter(U'1') || IsLetter(U'\u0301') || IsLetter(U'_') || IsLetter(U'@'));
  EXPECT_TRUE(IsNumber(U'½') && IsNumber(U'Ⅷ') && IsNumber(U'٣'));
  EXPECT_TRUE(IsWordCharacter(U'_') && IsWordCharacter(U'\u0301') && IsWordCharacter(U'Ⓐ'));
  EXPECT_FALSE(IsWordCharacter(U'-') || IsWordCharacter(U'½') || IsWordCharacter(U'€'));
  EXPECT_TRUE(IsBertPunctuation(U'$') && IsBertPunctuation(U'“') && IsBertPunctuation(U'。'));
  EXPECT_FALSE(IsBertPunctuation(U'€') || IsBertPunctuation(U'°'));
  EXPECT_TRUE(IsBertControl(0) && IsBertControl(U'\u200d') && IsBertControl(U'\ue000'));
  EXPECT_FALSE(IsBertControl(U'\t') || IsBertControl(U'\n') || IsBertControl(U' '));
  EXPECT_FALSE(IsBertControl(0x378)) << "unassigned characters stay";
  EXPECT_TRUE(IsBertIdeograph(U'中') && IsBertIdeograph(0x20000));
  EXPECT_FALSE(IsBertIdeograph(U'あ') || IsBertIdeograph(U'한'));
}

TEST(UnicodeTest, TheTablesAreSortedAndDisjoint) {
  for (const auto table : {NonspacingMarks(), Punctuation(), FormatAndPrivate()}) {
    for (size_t i = 0; i < table.size(); ++i) {
      ASSERT_LE(table[i].first, table[i].last);
      if (i > 0) {
        ASSERT_LT(table[i - 1].last, table[i].first);
      }
    }
  }
}

TEST(UnicodeTest, Mappings) {
  char32_t lower[2];
  ASSERT_EQ(ToLower(U'İ', lower), 2);
  EXPECT_EQ(std::u32string_view(lower, 2), U"i\u0307");
  ASSERT_EQ(ToLower(U'Σ', lower), 1);
  EXPECT_EQ(lower[0], U'σ');
  char32_t parts[kMaxDecomposition];
  ASSERT_EQ(Decompose(U'ṩ', false, parts), 3);
  EXPECT_EQ(std::u32string_view(parts, 3), U"s\u0323\u0307");
  EXPECT_EQ(Decompose(U'\ufdfa', true, parts), 18);  // The longest there is.
  EXPECT_EQ(Decompose(U'\ufb01', false, parts), 1);
  EXPECT_EQ(Compose(U'e', U'\u0301'), U'é');
  EXPECT_EQ(Compose(U'\u1112', U'\u1161'), U'하');
  EXPECT_FALSE(Compose(U'x', U'\u0301'));
}

}  // namespace
}  // namespace thresher::text
