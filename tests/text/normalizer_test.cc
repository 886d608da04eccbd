#include "backend/text/normalizer.h"

#include <gtest/gtest.h>

#include "backend/text/unicode.h"
#include "tests/text/tokenizer_testing.h"

namespace thresher::text {
namespace {

std::string Normalize(const Normalizer& normalizer, std::string_view text) {
  return normalizer.Normalize(text, 0).text();
}

std::string Bert(std::string_view text, const BertNormalizerOptions& options = {}) {
  return Normalize(*MakeBertNormalizer(options), text);
}

TEST(BertNormalizerTest, LowercasesAndStripsAccents) {
  EXPECT_EQ(Bert("Héllo WÖRLD"), "hello world");
  EXPECT_EQ(Bert("cafe\u0301"), "cafe");
  EXPECT_EQ(Bert("İstanbul ẞ Σ"), "istanbul ß σ");
}

TEST(BertNormalizerTest, KeepsAccentsWhereToldTo) {
  EXPECT_EQ(Bert("HÉ", {.strip_accents = false}), "hé");
  EXPECT_EQ(Bert("HÉ", {.strip_accents = false, .lowercase = false}), "HÉ");
  EXPECT_EQ(Bert("İ", {.strip_accents = false}), "i\u0307");
  EXPECT_EQ(Bert("HÉ", {.strip_accents = true, .lowercase = false}), "HE");
}

TEST(BertNormalizerTest, SpacingMarksAreNoAccents) {
  EXPECT_EQ(Bert("\u0915\u0903\u0941"), "\u0915\u0903");
}

TEST(BertNormalizerTest, RemovesControlsAndMakesWhiteSpacePlain) {
  EXPECT_EQ(Bert(std::string_view("a\0b\x07"
                                  "c\ufffd\u200dd",
                                  12)),
            "abcd");
  EXPECT_EQ(Bert("a\tb\nc\rd\u3000e\u00a0f"), "a b c d e f");
  EXPECT_EQ(Bert("a\tb\x07", {.clean_text = false}), "a\tb\x07");
}

TEST(BertNormalizerTest, PutsSpacesAroundIdeographs) {
  EXPECT_EQ(Bert("ab中文c"), "ab 中  文 c");
  EXPECT_EQ(Bert("ab中", {.handle_chinese_chars = false}), "ab中");
}

TEST(BertNormalizerTest, TheFastPathDoesWhatTheSlowOneDoes) {
  const auto bert = MakeBertNormalizer({});
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (int n = 0; n < 20; ++n) text.push_back(static_cast<char>(random() % 128));
    Characters characters = ToCharacters(text, 5);
    bert->Apply(characters);
    const AlignedText slow(characters);
    const AlignedText fast = bert->Normalize(text, 5);
    ASSERT_EQ(fast.text(), slow.text());
    for (int32_t b = 0; b < static_cast<int32_t>(slow.text().size()); ++b) {
      ASSERT_EQ(fast.Source({b, b + 1}), slow.Source({b, b + 1}));
    }
  }
}

TEST(NormalizerTest, Forms) {
  const std::string text = "\ufb01 \u00e9 e\u0301 \u1112\u1161\u11ab \u2460";
  EXPECT_EQ(Normalize(*MakeNormalizationForm({.compose = true}), text), "\ufb01 é é 한 \u2460");
  EXPECT_EQ(Normalize(*MakeNormalizationForm({.compose = true, .compatible = true}), text),
            "fi é é 한 1");
  EXPECT_EQ(Normalize(*MakeNormalizationForm({.compose = false}), "\u00e9\ud55c"),
            "e\u0301\u1112\u1161\u11ab");
  // Marks into canonical order, and a mark in between does not block one of a higher class.
  EXPECT_EQ(Normalize(*MakeNormalizationForm({.compose = true}), "e\u0301\u0323"), "\u1eb9\u0301");
  EXPECT_EQ(Normalize(*MakeNormalizationForm({.compose = true}), "a\u0315\u0300"), "\u00e0\u0315");
  // A mark blocks another of its own class.
  EXPECT_EQ(Normalize(*MakeNormalizationForm({.compose = true}), "x\u0302\u0301"), "x\u0302\u0301");
}

TEST(NormalizerTest, CompositionOfADecomposedCharacterGivesItBack) {
  const auto nfc = MakeNormalizationForm({.compose = true});
  const auto nfd = MakeNormalizationForm({.compose = false});
  for (char32_t c = 0; c <= 0x2FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, text);
    // Not always the character itself: some have a canonical equal or are excluded.
    const std::string once = Normalize(*nfc, text);
    ASSERT_EQ(Normalize(*nfc, Normalize(*nfd, text)), once) << std::hex << uint32_t{c};
    ASSERT_EQ(Normalize(*nfc, once), once) << std::hex << uint32_t{c};
  }
}

TEST(NormalizerTest, SmallOnes) {
  EXPECT_EQ(Normalize(*MakeLowercase(), "ÀB İ"), "àb i\u0307");
  EXPECT_EQ(Normalize(*MakeStripAccents(), "e\u0301\u0903é"), "eé");
  EXPECT_EQ(Normalize(*MakeStrip(true, true), " \u3000 a b \n"), "a b");
  EXPECT_EQ(Normalize(*MakeStrip(true, false), "  a "), "a ");
  EXPECT_EQ(Normalize(*MakeStrip(false, true), "  a "), "  a");
  EXPECT_EQ(Normalize(*MakeStrip(true, true), " \t "), "");
  EXPECT_EQ(Normalize(*MakeReplace("``", "\""), "``a```"), "\"a\"`");
  EXPECT_EQ(Normalize(*MakeReplace("é", ""), "éaé"), "a");
  std::vector<std::unique_ptr<Normalizer>> parts;
  parts.push_back(MakeNormalizationForm({.compose = false}));
  parts.push_back(MakeStripAccents());
  parts.push_back(MakeLowercase());
  EXPECT_EQ(Normalize(*MakeSequence(std::move(parts)), "Éa"), "ea");
}

TEST(NormalizerTest, PrependHasTheSourceOfTheFirstCharacter) {
  const auto prepend = MakePrepend("\u2581");
  EXPECT_EQ(Normalize(*prepend, ""), "");
  const AlignedText text = prepend->Normalize("\u00e9a", 7);
  EXPECT_EQ(text.text(), "\u2581\u00e9a");
  EXPECT_EQ(text.Source({0, 3}), (Span{7, 9}));
  EXPECT_EQ(text.Source({0, 6}), (Span{7, 10}));
}

TEST(NormalizerTest, NoCharacterGrowsMoreThanToldBeforehand) {
  std::vector<std::unique_ptr<Normalizer>> normalizers;
  normalizers.push_back(MakeBertNormalizer({.strip_accents = false}));
  normalizers.push_back(MakeBertNormalizer({}));
  normalizers.push_back(MakeLowercase());
  for (const bool compatible : {false, true}) {
    for (const bool compose : {false, true}) {
      normalizers.push_back(MakeNormalizationForm({.compose = compose, .compatible = compatible}));
    }
  }
  for (char32_t c = 0; c <= 0x2FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, text);
    for (const auto& normalizer : normalizers) {
      ASSERT_LE(Normalize(*normalizer, text).size(), text.size() * normalizer->growth())
          << std::hex << uint32_t{c};
    }
  }
}

TEST(NormalizerTest, EveryByteKnowsItsSource) {
  const std::string text = "aÉ\x07中e\u0301z";
  const AlignedText normalized = MakeBertNormalizer({})->Normalize(text, 10);
  ASSERT_EQ(normalized.text(), "ae 中 ez");
  const auto source = [&](int32_t begin, int32_t end) {
    const Span span = normalized.Source({begin, end});
    return text.substr(span.begin - 10, span.end - span.begin);
  };
  EXPECT_EQ(source(0, 1), "a");
  EXPECT_EQ(source(1, 2), "É");
  EXPECT_EQ(source(0, 2), "aÉ");
  EXPECT_EQ(source(3, 6), "中");
  EXPECT_EQ(source(4, 5), "中");  // Part of a character: all of it.
  EXPECT_EQ(source(7, 8), "e");
  EXPECT_EQ(source(7, 9), "e\u0301z");  // What was removed in between is covered.
}

}  // namespace
}  // namespace thresher::text
