// Whole tokenizers: added tokens, pairs, truncation, offsets, decoding, errors.
#include "backend/text/tokenizer.h"

#include <limits>

#include "backend/text/unicode.h"
#include "tests/testing/paths.h"
#include "tests/text/tokenizer_testing.h"

namespace thresher::text {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using thresher::testing::SourceDir;

json Added(const std::string& content, int id, json flags = json::object()) {
  flags["content"] = content;
  flags["id"] = id;
  return flags;
}

// Ids 4 to 9, then an added token.
json BertWith(const json& added) {
  json document = SmallBert({"a", "b", "c", "##b", "the", "mask"});
  document["added_tokens"].push_back(added);
  return document;
}

TEST(AddedTokenTest, SpecialTokensAreFoundInTheText) {
  const auto tokenizer = FromJson(SmallBert({"a", "b", "mask", "[", "]"}));
  EXPECT_THAT(Spellings(*tokenizer, "a[MASK]b"), ElementsAre("a", "[MASK]", "b"));
  EXPECT_THAT(Covered(*tokenizer, "a[MASK]b"), ElementsAre("a", "[MASK]", "b"));
  // Not normalized: only as it is spelled.
  EXPECT_THAT(Spellings(*tokenizer, "[mask]"), ElementsAre("[", "mask", "]"));
}

TEST(AddedTokenTest, NormalizedOnesAreFoundInNormalizedText) {
  const auto tokenizer = FromJson(BertWith(Added("Été", 10)));
  EXPECT_THAT(PlainIds(*tokenizer, "a ÉTÉ"), ElementsAre(4, 10));
  EXPECT_THAT(Covered(*tokenizer, "a éte\u0301 "), ElementsAre("a", "éte"));
  const auto raw = FromJson(BertWith(Added("Été", 10, {{"normalized", false}})));
  EXPECT_THAT(PlainIds(*raw, "a Été ÉTÉ"), ElementsAre(4, 10, 0));
}

TEST(AddedTokenTest, TheLongestWins) {
  json document = BertWith(Added("xy", 10));
  document["added_tokens"].push_back(Added("xyz", 11));
  document["added_tokens"].push_back(Added("yzab", 12));
  EXPECT_THAT(PlainIds(*FromJson(document), "xyzab xya"), ElementsAre(11, 4, 7, 10, 4));
}

TEST(AddedTokenTest, SingleWordsTouchNoWordCharacter) {
  const auto tokenizer = FromJson(BertWith(Added("the", 8, {{"single_word", true}})));
  EXPECT_THAT(PlainIds(*tokenizer, "the,the thea"), ElementsAre(8, 0, 8, 0));
  const auto mask = FromJson(BertWith(Added("<m>", 10, {{"single_word", true}})));
  EXPECT_THAT(PlainIds(*mask, "<m>-<m> a<m>"), ElementsAre(10, 0, 10, 4, 0, 0, 0));
}

TEST(AddedTokenTest, StripTakesTheWhiteSpaceBeside) {
  const auto left = FromJson(BertWith(Added("<m>", 10, {{"lstrip", true}})));
  EXPECT_THAT(Covered(*left, "a \u3000<m> b"), ElementsAre("a", " \u3000<m>", "b"));
  const auto right = FromJson(BertWith(Added("<m>", 10, {{"rstrip", true}})));
  EXPECT_THAT(Covered(*right, "a <m> \t<m>b"), ElementsAre("a", "<m> \t", "<m>", "b"));
}

TEST(AddedTokenTest, TheModelDoesNotKnowThem) {
  // As a word of its own it is found first; as a part it is not.
  const auto tokenizer = FromJson(BertWith(Added("zz", 10, {{"single_word", true}})));
  EXPECT_THAT(PlainIds(*tokenizer, "zz azz"), ElementsAre(10, 0));
  EXPECT_EQ(tokenizer->TokenId("zz"), 10);
  EXPECT_EQ(tokenizer->vocab_size(), 11);
}

class PairTest : public ::testing::Test {
 protected:
  Encoding Pair(const std::string& a, const std::string& b, const EncodeOptions& options = {}) {
    const auto encoding = tokenizer_->EncodePair(a, b, options);
    EXPECT_TRUE(encoding.ok()) << encoding.status();
    return *encoding;
  }
  std::unique_ptr<Tokenizer> tokenizer_ = FromJson(SmallBert({"a", "b", "c", "##b"}));
};

TEST_F(PairTest, BertPutsSpecialTokensAndTypes) {
  const Encoding encoding = Pair("a ab", "c");
  EXPECT_THAT(Ids(encoding), ElementsAre(1, 4, 4, 7, 2, 6, 2));
  std::vector<int32_t> types, sequences;
  for (const EncodedToken& token : encoding.tokens) {
    types.push_back(token.type_id);
    sequences.push_back(token.sequence);
  }
  EXPECT_THAT(types, ElementsAre(0, 0, 0, 0, 0, 1, 1));
  EXPECT_THAT(sequences, ElementsAre(-1, 0, 0, 0, -1, 1, -1));
  EXPECT_FALSE(encoding.truncated);
}

TEST_F(PairTest, WithoutSpecialTokensTheTypesStay) {
  const Encoding encoding = Pair("a", "c", {.add_special_tokens = false});
  EXPECT_THAT(Ids(encoding), ElementsAre(4, 6));
  EXPECT_EQ(encoding.tokens[1].type_id, 1);
}

TEST_F(PairTest, EmptyTextsHaveOnlySpecialTokens) {
  EXPECT_THAT(Ids(Pair("", "")), ElementsAre(1, 2, 2));
  EXPECT_THAT(Ids(*tokenizer_->Encode("", {})), ElementsAre(1, 2));
  EXPECT_THAT(Ids(*tokenizer_->Encode(" \t ", {})), ElementsAre(1, 2));
  EXPECT_THAT(Ids(*tokenizer_->Encode("", {.add_special_tokens = false})), IsEmpty());
}

// How many tokens of n1 and n2 stay under a limit for both.
TEST_F(PairTest, TruncationCutsTheLongestFirst) {
  struct Case {
    int n1, n2, limit, keep1, keep2;
  };
  for (const Case& c : std::vector<Case>{{0, 0, 7, 0, 0},
                                         {0, 8, 7, 0, 7},
                                         {2, 4, 7, 2, 4},
                                         {2, 8, 7, 2, 5},
                                         {8, 2, 7, 5, 2},
                                         {4, 4, 7, 3, 4},
                                         {4, 8, 7, 3, 4},
                                         {8, 4, 7, 4, 3},
                                         {8, 8, 7, 3, 4},
                                         {9, 8, 7, 4, 3},
                                         {8, 8, 1, 0, 1},
                                         {9, 8, 1, 1, 0},
                                         {3, 3, 0, 0, 0}}) {
    SCOPED_TRACE(::testing::Message() << c.n1 << " " << c.n2 << " in " << c.limit);
    std::string a, b;
    for (int i = 0; i < c.n1; ++i) a += "a ";
    for (int i = 0; i < c.n2; ++i) b += "b ";
    const Encoding encoding = Pair(a, b, {.max_tokens = c.limit + 3, .truncate = true});
    EXPECT_EQ(std::ranges::count(Ids(encoding), 4), c.keep1);
    EXPECT_EQ(std::ranges::count(Ids(encoding), 5), c.keep2);
    EXPECT_EQ(static_cast<int>(encoding.tokens.size()), c.keep1 + c.keep2 + 3);
    EXPECT_EQ(encoding.truncated, c.keep1 + c.keep2 < c.n1 + c.n2);
  }
}

TEST_F(PairTest, TruncationCutsASingleTextFromTheRight) {
  const auto encoding = tokenizer_->Encode("a ab c", {.max_tokens = 5, .truncate = true});
  EXPECT_THAT(Ids(*encoding), ElementsAre(1, 4, 4, 7, 2));
  EXPECT_TRUE(encoding->truncated);
  EXPECT_FALSE(tokenizer_->Encode("a b c", {.max_tokens = 5, .truncate = true})->truncated);
}

TEST_F(PairTest, TooLongATextIsAnErrorThatSaysBothNumbers) {
  const auto encoding = tokenizer_->Encode("a b c a", {.max_tokens = 5});
  EXPECT_EQ(encoding.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(encoding.status().message()),
              ::testing::AllOf(HasSubstr("6 tokens"), HasSubstr("limit is 5")));
  EXPECT_TRUE(tokenizer_->Encode("a b c", {.max_tokens = 5}).ok());
  EXPECT_FALSE(tokenizer_->EncodePair("a b", "c", {.max_tokens = 5}).ok());
  EXPECT_TRUE(tokenizer_->EncodePair("a b", "c", {.max_tokens = 6}).ok());
}

TEST_F(PairTest, ALimitBelowTheSpecialTokensIsAnError) {
  EXPECT_FALSE(tokenizer_->Encode("a", {.max_tokens = 1, .truncate = true}).ok());
  EXPECT_THAT(Ids(*tokenizer_->Encode("a", {.max_tokens = 2, .truncate = true})),
              ElementsAre(1, 2));
  EXPECT_FALSE(tokenizer_->EncodePair("a", "b", {.max_tokens = 2, .truncate = true}).ok());
  EXPECT_FALSE(tokenizer_->Encode("a", {.max_tokens = -1}).ok());
}

TEST_F(PairTest, AHugeTextIsAnError) {
  const std::string text((size_t{16} << 20) + 1, 'a');
  EXPECT_EQ(tokenizer_->Encode(text, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(tokenizer_->Encode(std::string_view(text).substr(1), {}).ok());
}

TEST_F(PairTest, InvalidUtf8IsAnErrorThatSaysWhere) {
  const auto single = tokenizer_->Encode("ab\xFFz", {});
  EXPECT_EQ(single.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(single.status().message()), HasSubstr("byte 0xff at offset 2"));
  const auto pair = tokenizer_->EncodePair("a", "b\xC3", {});
  EXPECT_THAT(std::string(pair.status().message()), HasSubstr("second text"));
  EXPECT_THAT(std::string(pair.status().message()), HasSubstr("offset 1"));
}

TEST(OffsetsTest, TokensOfBertCoverTheWordsTheyComeFrom) {
  const auto tokenizer = LoadOrDie(SourceDir() / "models/sst2-mini");
  EXPECT_THAT(Covered(*tokenizer, "The Café,\u200d中 x"),
              ElementsAre("The", "Ca", "fé", ",", "中", "x"));
}

// In order, within the text, on characters, and not overlapping.
void ExpectSoundOffsets(const Tokenizer& tokenizer, std::string_view text, bool may_overlap) {
  const auto encoding = tokenizer.Encode(text, {});
  ASSERT_TRUE(encoding.ok()) << encoding.status();
  const auto on_character = [&](int32_t i) {
    return i == static_cast<int32_t>(text.size()) || !IsContinuationByte(text[i]);
  };
  int32_t begin = 0, end = 0;
  for (const EncodedToken& token : encoding->tokens) {
    if (token.sequence < 0) {
      ASSERT_TRUE(token.begin == 0 && token.end == 0);
      continue;
    }
    ASSERT_TRUE(token.begin <= token.end && token.end <= static_cast<int32_t>(text.size()));
    ASSERT_TRUE(on_character(token.begin) && on_character(token.end));
    // Tokens that share a character all have the span of the whole of it.
    const bool same = token.begin == begin && token.end == end;
    ASSERT_TRUE(token.begin >= end || (may_overlap && token.begin >= begin && token.end >= end))
        << same << json(std::string(text)) << " [" << token.begin << ", " << token.end << ")";
    begin = token.begin;
    end = token.end;
  }
}

TEST(OffsetsTest, AreSoundOnAnyText) {
  const auto bert = LoadOrDie(SourceDir() / "models/sst2-mini");
  const auto roberta = LoadOrDie(SourceDir() / "tests/text/golden/byte_level");
  const auto added = LoadOrDie(SourceDir() / "tests/text/golden/added_tokens");
  std::mt19937 random(5);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = RandomText(random, 50);
    ExpectSoundOffsets(*bert, text, /*may_overlap=*/false);
    ExpectSoundOffsets(*roberta, text, /*may_overlap=*/true);
    ExpectSoundOffsets(*added, text, /*may_overlap=*/true);
  }
}

TEST(OffsetsTest, BytesOfOneCharacterHaveItsSpan) {
  const auto tokenizer = FromJson(SmallBpe({}));
  EXPECT_THAT(Covered(*tokenizer, "a中"), ElementsAre("a", "中", "中", "中"));
}

TEST(OffsetsTest, TrimLeavesOutSpaces) {
  json document = SmallBpe({{"Ġ", "b"}});
  EXPECT_THAT(Covered(*FromJson(document), "a b"), ElementsAre("a", " b"));
  document["post_processor"] = {{"type", "ByteLevel"}, {"trim_offsets", true}};
  EXPECT_THAT(Covered(*FromJson(document), "a b"), ElementsAre("a", "b"));
  EXPECT_THAT(Covered(*FromJson(document), "a\nb "), ElementsAre("a", "\n", "b", ""));
}

TEST(OffsetsTest, ThePrefixSpaceIsNotInTheText) {
  json document = SmallBpe({{"Ġ", "a"}});
  document["pre_tokenizer"]["add_prefix_space"] = true;
  for (const bool trim : {false, true}) {
    document["post_processor"] = {{"type", "ByteLevel"}, {"trim_offsets", trim}};
    const auto tokenizer = FromJson(document);
    EXPECT_THAT(Spellings(*tokenizer, "a b"), ElementsAre("Ġa", "Ġ", "b"));
    EXPECT_THAT(Covered(*tokenizer, "a"), ElementsAre("a"));
    EXPECT_THAT(Covered(*tokenizer, " a"), ElementsAre(trim ? "a" : " a"));
    EXPECT_THAT(Spellings(*tokenizer, ""), IsEmpty());
  }
}

TEST(ByteLevelTest, DecodeGivesTheTextBack) {
  const auto tokenizer = LoadOrDie(SourceDir() / "tests/text/golden/byte_level");
  std::mt19937 random(17);
  for (int i = 0; i < 3000; ++i) {
    // Random bytes, one character each, and random text. Spaces before added tokens would go.
    std::string text;
    if (i % 2 == 0) {
      for (int n = 0; n < 40; ++n) AppendUtf8(random() % 256, text);
    } else {
      text = RandomText(random, 40);
    }
    const auto encoding = tokenizer->Encode(text, {});
    ASSERT_TRUE(encoding.ok()) << encoding.status();
    EXPECT_EQ(*tokenizer->Decode(Ids(*encoding), /*skip_special=*/true), text);
  }
}

TEST(DecodeTest, ByteLevelReplacesWhatIsNotUtf8) {
  const auto tokenizer = FromJson(SmallBpe({}));
  const std::vector<int32_t> cut_off = {'a', 0xE4, 0xB8, 'z'};
  EXPECT_EQ(*tokenizer->Decode(cut_off, true), "a\uFFFDz");
}

TEST(DecodeTest, WordPieceJoinsAndCleansUp) {
  const auto tokenizer = LoadOrDie(SourceDir() / "models/sst2-mini");
  const auto decode = [&](std::string_view text) {
    return *tokenizer->Decode(Ids(*tokenizer->Encode(text, {})), true);
  };
  EXPECT_EQ(decode("Hello, unaffable world!"), "hello, unaffable world!");
  EXPECT_EQ(*tokenizer->Decode(Ids(*tokenizer->Encode("good", {})), false), "[CLS] good [SEP]");
  EXPECT_EQ(*tokenizer->Decode({}, true), "");
}

TEST(DecodeTest, AnUnknownIdIsOutOfRange) {
  const auto tokenizer = FromJson(SmallBert({"a"}));
  for (const int32_t id : {-1, 5, std::numeric_limits<int32_t>::max()}) {
    const auto decoded = tokenizer->Decode(std::vector<int32_t>{4, id}, true);
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(std::string(decoded.status().message()), HasSubstr("position 1"));
  }
}

TEST(TokenizerTest, TellsItsVocabulary) {
  const auto tokenizer = LoadOrDie(SourceDir() / "models/sst2-mini");
  EXPECT_EQ(tokenizer->vocab_size(), 8000);
  EXPECT_EQ(tokenizer->TokenText(4), "[MASK]");
  EXPECT_EQ(tokenizer->TokenId("[MASK]"), 4);
  EXPECT_EQ(tokenizer->TokenId("no such token"), -1);
  EXPECT_EQ(tokenizer->TokenText(8000), "");
  EXPECT_TRUE(tokenizer->IsSpecial(4));
  EXPECT_FALSE(tokenizer->IsSpecial(5) || tokenizer->IsSpecial(-1));
  EXPECT_EQ(tokenizer->model_max_length(), 128);
}

// Linear work; anything more would not end.
TEST(TokenizerTest, HostileTextsAreNoTrouble) {
  const auto bert = LoadOrDie(SourceDir() / "models/sst2-mini");
  const auto roberta = LoadOrDie(SourceDir() / "tests/text/golden/byte_level");
  std::string marks;
  for (int i = 0; i < 300000; ++i) marks += i % 2 == 0 ? "\u0323" : "\u0301";
  for (const std::string& text :
       {std::string(1 << 20, 'a'), std::string(1 << 20, ' '), std::string(1 << 20, '['),
        std::string(1 << 20, '\''), std::string(1 << 20, '\0'), marks}) {
    EXPECT_TRUE(bert->Encode(text, {.max_tokens = 128, .truncate = true}).ok());
    EXPECT_TRUE(bert->EncodePair(text, text, {}).ok());
    EXPECT_TRUE(roberta->Encode(text, {}).ok());
  }
}

}  // namespace
}  // namespace thresher::text
