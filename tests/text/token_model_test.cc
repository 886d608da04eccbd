// WordPiece and BPE, on their own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/text/bpe.h"
#include "backend/text/byte_level.h"
#include "backend/text/wordpiece.h"
#include "tests/text/tokenizer_testing.h"

namespace thresher::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Merges = std::vector<std::pair<std::string, std::string>>;

Vocabulary MakeVocabulary(const std::vector<std::string>& tokens) {
  Vocabulary vocabulary(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto status = vocabulary.Add(tokens[i], static_cast<int64_t>(i));
    EXPECT_TRUE(status.ok()) << status;
  }
  return vocabulary;
}

std::vector<std::string> Tokenize(const TokenModel& model, const Vocabulary& vocabulary,
                                  std::string_view word) {
  std::vector<Piece> pieces;
  const Span all = {0, static_cast<int32_t>(word.size())};
  model.Tokenize(word, {&all, 1}, 1000000, pieces);
  std::vector<std::string> tokens;
  for (const Piece& piece : pieces) tokens.emplace_back(vocabulary.Text(piece.id));
  return tokens;
}

class WordPieceTest : public ::testing::Test {
 protected:
  std::vector<std::string> Tokens(std::string_view word, const WordPieceOptions& options = {}) {
    const auto model = WordPiece::Create(vocabulary_, options);
    EXPECT_TRUE(model.ok()) << model.status();
    return Tokenize(*model, vocabulary_, word);
  }

  Vocabulary vocabulary_ = MakeVocabulary(
      {"[UNK]", "un", "##aff", "##able", "una", "##a", "é", "##é", "##ab", "##ablez", "i"});
};

TEST_F(WordPieceTest, TakesTheLongestTokenFirst) {
  EXPECT_THAT(Tokens("una"), ElementsAre("una"));
  EXPECT_THAT(Tokens("unable"), ElementsAre("[UNK]"));  // "una" is longer than "un".
  EXPECT_THAT(Tokens("unaa"), ElementsAre("una", "##a"));
  EXPECT_THAT(Tokens("iable"), ElementsAre("i", "##able"));
  EXPECT_THAT(Tokens("iablea"), ElementsAre("i", "##able", "##a"));
  EXPECT_THAT(Tokens("éé"), ElementsAre("é", "##é"));
}

TEST_F(WordPieceTest, AWordThatIsNotCoveredIsOneUnknownToken) {
  EXPECT_THAT(Tokens("unx"), ElementsAre("[UNK]"));
  EXPECT_THAT(Tokens("able"), ElementsAre("[UNK]"));  // Only continues.
  EXPECT_THAT(Tokens("è"), ElementsAre("[UNK]"));     // Shares its first byte with a token.
}

TEST_F(WordPieceTest, ATokenMayBeSpelledWithItsPrefix) {
  EXPECT_THAT(Tokens("##a"), ElementsAre("##a"));
}

TEST_F(WordPieceTest, WordsThatAreTooLongAreUnknownAndCountedInCharacters) {
  EXPECT_THAT(Tokens("ééé", {.max_characters_per_word = 3}), ElementsAre("é", "##é", "##é"));
  EXPECT_THAT(Tokens("éééé", {.max_characters_per_word = 3}), ElementsAre("[UNK]"));
}

TEST_F(WordPieceTest, StopsWhenThereAreEnough) {
  const auto model = WordPiece::Create(vocabulary_, {});
  const std::vector<Span> words = {{0, 1}, {1, 2}, {2, 3}, {3, 4}};
  std::vector<Piece> pieces;
  model->Tokenize("iiii", words, 2, pieces);
  EXPECT_EQ(pieces.size(), 2u);
}

TEST(WordPieceCreateTest, NeedsTheUnknownToken) {
  const auto model = WordPiece::Create(MakeVocabulary({"a"}), {});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("[UNK]"));
}

TEST(WordPieceCreateTest, AnEmptyPrefixContinuesWithAnyToken) {
  const Vocabulary vocabulary = MakeVocabulary({"[UNK]", "a", "b"});
  const auto model = WordPiece::Create(vocabulary, {.continuing_prefix = ""});
  EXPECT_THAT(Tokenize(*model, vocabulary, "abba"), ElementsAre("a", "b", "b", "a"));
}

TEST(BpeTest, MergesByRankThenFromTheLeft) {
  const Vocabulary vocabulary = MakeVocabulary({"a", "b", "c", "ab", "bc", "abc", "aa"});
  const auto model =
      Bpe::Create(vocabulary, Merges{{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"a", "a"}}, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(Tokenize(*model, vocabulary, "abc"), ElementsAre("abc"));
  EXPECT_THAT(Tokenize(*model, vocabulary, "abab"), ElementsAre("ab", "ab"));
  EXPECT_THAT(Tokenize(*model, vocabulary, "aaa"), ElementsAre("aa", "a"));
  EXPECT_THAT(Tokenize(*model, vocabulary, "aabca"), ElementsAre("a", "abc", "a"));
}

TEST(BpeTest, BytesOutsideTheVocabulary) {
  const Vocabulary vocabulary = MakeVocabulary({"a", "<unk>"});
  const auto tokens = [&](const BpeOptions& options) {
    return Tokenize(*Bpe::Create(vocabulary, Merges{}, options), vocabulary, "axya");
  };
  EXPECT_THAT(tokens({}), ElementsAre("a", "a"));
  EXPECT_THAT(tokens({.unknown_token = "<unk>"}), ElementsAre("a", "<unk>", "<unk>", "a"));
  EXPECT_THAT(tokens({.unknown_token = "<unk>", .fuse_unknown = true}),
              ElementsAre("a", "<unk>", "a"));
}

TEST(BpeTest, CharactersMergeLikeBytes) {
  const Vocabulary vocabulary = MakeVocabulary({"é", "中", "é中", "x"});
  const auto model = Bpe::Create(vocabulary, Merges{{"é", "中"}}, {.unit = BpeUnit::kCharacter});
  EXPECT_THAT(Tokenize(*model, vocabulary, "é中xè中"), ElementsAre("é中", "x", "中"));
}

TEST(BpeTest, ByteFallbackSpellsWhatIsNoTokenIfAllItsBytesAreTokens) {
  const Vocabulary vocabulary = MakeVocabulary({"a", "<unk>", "<0xC3>", "<0xA9>", "<0xE4>"});
  const auto model = Bpe::Create(vocabulary, Merges{},
                                 {.unit = BpeUnit::kCharacter,
                                  .unknown_token = "<unk>",
                                  .fuse_unknown = true,
                                  .byte_fallback = true});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(Tokenize(*model, vocabulary, "aé中中éa"),
              ElementsAre("a", "<0xC3>", "<0xA9>", "<unk>", "<0xC3>", "<0xA9>", "a"));
  std::vector<Piece> pieces;
  const Span word = {1, 6};
  model->Tokenize("aé中a", {&word, 1}, 100, pieces);
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[0].span, (Span{1, 2}));
  EXPECT_EQ(pieces[2].span, (Span{3, 6}));
}

TEST(BpeTest, ByteFallbackOfBytesNeedsThemAll) {
  const auto model =
      Bpe::Create(MakeVocabulary({"a", "b"}), Merges{}, {.byte_fallback = true}).status();
  EXPECT_EQ(model.code(), absl::StatusCode::kUnimplemented);
}

TEST(BpeTest, IgnoreMergesTakesAWordThatIsAToken) {
  const Vocabulary vocabulary = MakeVocabulary({"a", "b", "c", "bc", "abc", "Ġ", "Ġa"});
  for (const bool ignore : {false, true}) {
    const auto model = Bpe::Create(vocabulary, Merges{{"b", "c"}}, {.ignore_merges = ignore});
    ASSERT_TRUE(model.ok()) << model.status();
    using Tokens = std::vector<std::string>;
    EXPECT_EQ(Tokenize(*model, vocabulary, "abc"), ignore ? Tokens{"abc"} : Tokens({"a", "bc"}));
    EXPECT_EQ(Tokenize(*model, vocabulary, " a"), ignore ? Tokens{"Ġa"} : Tokens({"Ġ", "a"}));
    EXPECT_EQ(Tokenize(*model, vocabulary, "abca"), Tokens({"a", "bc", "a"}));
  }
}

TEST(BpeTest, AMergeOfUnknownTokensIsAnError) {
  const Vocabulary vocabulary = MakeVocabulary({"a", "b", "ab"});
  for (const Merges& merges : {Merges{{"a", "b"}, {"x", "b"}}, Merges{{"a", "b"}, {"a", "x"}},
                               Merges{{"a", "b"}, {"b", "a"}}}) {
    const auto model = Bpe::Create(vocabulary, merges, {});
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(model.status().message()), HasSubstr("merge 1"));
  }
  EXPECT_FALSE(Bpe::Create(vocabulary, Merges{}, {.unknown_token = "<unk>"}).ok());
}

// The definition: again and again, of all pairs the one that ranks first, the leftmost.
std::vector<std::string> NaiveBpe(std::vector<std::string> tokens, const Merges& merges) {
  while (true) {
    size_t best_rank = merges.size(), best = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto pair = std::pair(tokens[i], tokens[i + 1]);
      const size_t rank = std::find(merges.begin(), merges.end(), pair) - merges.begin();
      if (rank < best_rank) {
        best_rank = rank;
        best = i;
      }
    }
    if (best_rank == merges.size()) return tokens;
    tokens[best] += tokens[best + 1];
    tokens.erase(tokens.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

TEST(BpeTest, DoesWhatTheDefinitionSays) {
  std::mt19937 random(11);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c"};
    Merges merges;
    while (merges.size() < 12) {
      const auto& left = tokens[random() % tokens.size()];
      const auto& right = tokens[random() % tokens.size()];
      const std::string result = left + right;
      // Each result has one merge: the vocabularies of the field are like that.
      if (std::find(tokens.begin(), tokens.end(), result) != tokens.end()) continue;
      merges.emplace_back(left, right);
      tokens.push_back(result);
    }
    const Vocabulary vocabulary = MakeVocabulary(tokens);
    const auto model = Bpe::Create(vocabulary, merges, {});
    ASSERT_TRUE(model.ok()) << model.status();
    for (int i = 0; i < 50; ++i) {
      std::vector<std::string> letters;
      std::string word;
      for (int n = static_cast<int>(random() % 30); n > 0; --n) {
        letters.emplace_back(1, static_cast<char>('a' + random() % 3));
        word += letters.back();
      }
      ASSERT_EQ(Tokenize(*model, vocabulary, word), NaiveBpe(letters, merges)) << word;
    }
  }
}

// Quadratic work would take hours here.
TEST(BpeTest, AMegabyteWithoutSpacesIsNoTrouble) {
  const Vocabulary vocabulary = MakeVocabulary({"a", "aa", "aaaa", "aaaaaaaa"});
  const auto model =
      Bpe::Create(vocabulary, Merges{{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}}, {});
  const std::string word(1 << 20, 'a');
  EXPECT_EQ(Tokenize(*model, vocabulary, word).size(), word.size() / 8);
}

TEST(VocabularyTest, RefusesWhatIsBroken) {
  Vocabulary vocabulary(2);
  ASSERT_TRUE(vocabulary.Add("a", 0).ok());
  EXPECT_THAT(std::string(vocabulary.Add("b", 0).message()), HasSubstr("same id 0"));
  EXPECT_THAT(std::string(vocabulary.Add("a", 1).message()), HasSubstr("there twice"));
  EXPECT_THAT(std::string(vocabulary.Add("c", -1).message()), HasSubstr("negative"));
  EXPECT_THAT(std::string(vocabulary.Add("c", int64_t{1} << 40).message()), HasSubstr("too large"));
  EXPECT_THAT(std::string(vocabulary.Add("c", 2147483647).message()), HasSubstr("too large"));
  ASSERT_TRUE(vocabulary.Add("d", 9).ok());
  EXPECT_EQ(vocabulary.size(), 10);
  EXPECT_TRUE(vocabulary.Has(9));
  EXPECT_FALSE(vocabulary.Has(5) || vocabulary.Has(-1) || vocabulary.Has(10));
  EXPECT_EQ(vocabulary.Text(5), "");
  EXPECT_EQ(vocabulary.Find("b"), -1);
}

}  // namespace
}  // namespace thresher::text
