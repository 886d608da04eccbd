// SentencePiece models: what its own programs make of texts, the rules of each part, damaged files.
#include "backend/text/sentencepiece.h"

#include <bit>
#include <limits>

#include "backend/tensor/status.h"
#include "backend/text/sentencepiece_normalizer.h"
#include "tests/testing/paths.h"
#include "tests/text/tokenizer_testing.h"

namespace thresher::text {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using thresher::testing::SharedPath;
using thresher::testing::SourceDir;

using Type = SentencePieceFile::Type;

std::filesystem::path Fixture(const std::string& kind) {
  return SourceDir() / "tests/text/golden" / ("sentencepiece_" + kind);
}

// ---- Models made by hand ----

std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}
std::string Number(int field, uint64_t value) { return Varint(field * 8) + Varint(value); }
std::string Bytes(int field, const std::string& bytes) {
  return Varint(field * 8 + 2) + Varint(bytes.size()) + bytes;
}
std::string Float(int field, float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  std::string bytes = Varint(field * 8 + 5);
  for (int i = 0; i < 4; ++i) bytes += static_cast<char>(bits >> (8 * i));
  return bytes;
}
std::string PieceOf(const std::string& text, float score, Type type = Type::kNormal) {
  return Bytes(1, Bytes(1, text) + Float(2, score) + Number(3, static_cast<uint64_t>(type)));
}

constexpr int kUnigram = 1, kBpe = 2;

struct Options {
  int kind = kBpe;
  bool byte_fallback = false;
  bool dummy_prefix = false;
  bool remove_extra = false;
  std::string map;
};
std::string Specs(const Options& options) {
  return Bytes(2, Number(3, options.kind) + Number(35, options.byte_fallback)) +
         Bytes(3, Bytes(2, options.map) + Number(3, options.dummy_prefix) +
                      Number(4, options.remove_extra));
}
// <unk> is 0, <s> 1, </s> 2; the pieces begin with 3.
const std::string kSpecials = PieceOf("<unk>", 0, Type::kUnknown) +
                              PieceOf("<s>", 0, Type::kControl) +
                              PieceOf("</s>", 0, Type::kControl);

std::unique_ptr<Tokenizer> FromModel(const std::string& model, const TokenizerConfig& config = {}) {
  auto pipeline = ParseSentencePiece(model, "tokenizer.model", config);
  if (!pipeline.ok()) throw std::runtime_error(Message(pipeline.status()));
  return MakeTokenizer(*std::move(pipeline));
}

// ---- Whole models ----

TEST(SentencePieceTest, AgreesWithSentencePiece) {
  const json cases =
      json::parse(ReadFile(SourceDir() / "tests/text/golden/sentencepiece_expected.json"));
  std::map<std::string, std::unique_ptr<Tokenizer>> tokenizers;
  for (const json& c : cases) {
    SCOPED_TRACE(c.dump());
    auto& tokenizer = tokenizers[c["model"]];
    if (!tokenizer) tokenizer = LoadOrDie(Fixture(c["model"]));
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(PlainIds(*tokenizer, c["text"].get<std::string>()), ids);
    // It decodes the unknown token to a mark of its own; here it is left out, as special.
    if (std::ranges::count(ids, tokenizer->TokenId("<unk>")) == 0) {
      EXPECT_EQ(c["decoded"], *tokenizer->Decode(ids, /*skip_special=*/true));
    }
  }
  EXPECT_EQ(tokenizers.size(), 2u);
}

TEST(SentencePieceTest, Stories260k) {
  const auto directory = SharedPath("models/stories260k");
  THRESHER_REQUIRE_SHARED(directory);
  const auto tokenizer = LoadOrDie(directory);
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  EXPECT_THAT(Ids(*tokenizer->Encode("", {})), ElementsAre(1));
  const json golden = json::parse(ReadFile(directory / "generation_golden.json"));
  const std::string story = golden["text"];
  const auto encoding = tokenizer->Encode(story, {});
  ASSERT_TRUE(encoding.ok()) << encoding.status();
  EXPECT_EQ(encoding->tokens[0].id, 1);
  EXPECT_EQ(*tokenizer->Decode(Ids(*encoding), /*skip_special=*/true), story);
}

TEST(SentencePieceTest, SpansAreThoseOfTheOriginalText) {
  const auto bpe = LoadOrDie(Fixture("bpe"));
  EXPECT_THAT(Covered(*bpe, "the \u4e2d"), ElementsAre("the", " ", "\u4e2d", "\u4e2d", "\u4e2d"));
  const auto tokenizer =
      FromModel(kSpecials + PieceOf("\u2581a", -1) + PieceOf("\u2581", -2) + PieceOf("a", -3) +
                Specs({.dummy_prefix = true, .remove_extra = true}));
  EXPECT_THAT(PlainIds(*tokenizer, "  a   a\u00e9\u00e9 "), ElementsAre(3, 3, 0));
  EXPECT_THAT(Covered(*tokenizer, "  a   a\u00e9\u00e9 "),
              ElementsAre("a", "   a", "\u00e9\u00e9"));
}

TEST(SentencePieceTest, ByteFallbackIsLossless) {
  const auto tokenizer = LoadOrDie(Fixture("bpe"));
  std::mt19937 random(3);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = RandomText(random, 40);
    if (text.find("\u2581") != std::string::npos) continue;  // It becomes a space.
    const auto encoding = tokenizer->Encode(text, {});
    ASSERT_TRUE(encoding.ok()) << encoding.status();
    ASSERT_EQ(*tokenizer->Decode(Ids(*encoding), /*skip_special=*/true), text);
  }
}

TEST(SentencePieceTest, HostileTextsAreNoTrouble) {
  const auto bpe = LoadOrDie(Fixture("bpe"));
  const auto unigram = LoadOrDie(Fixture("unigram"));
  for (const std::string& text : {std::string(1 << 20, 'a'), std::string(1 << 20, ' '),
                                  std::string(1 << 20, '\0'), std::string(1 << 20, '<')}) {
    EXPECT_TRUE(bpe->Encode(text, {.max_tokens = 128, .truncate = true}).ok());
    EXPECT_TRUE(unigram->EncodePair(text, text, {}).ok());
  }
}

// ---- Special tokens ----

class SpecialTokensTest : public ::testing::Test {
 protected:
  // The control piece is 3, then a and b.
  const std::string model_ = kSpecials + PieceOf("<ctl>", 0, Type::kControl) + PieceOf("a", -1) +
                             PieceOf("b", -2) + Specs({});
};

TEST_F(SpecialTokensTest, BosByDefaultAndAsTheConfigSays) {
  TokenizerConfig config;
  EXPECT_THAT(Ids(*FromModel(model_, config)->Encode("a", {})), ElementsAre(1, 4));
  EXPECT_THAT(Ids(*FromModel(model_, config)->Encode("a", {.add_special_tokens = false})),
              ElementsAre(4));
  config.add_eos_token = true;
  EXPECT_THAT(Ids(*FromModel(model_, config)->EncodePair("a", "b", {})),
              ElementsAre(1, 4, 2, 1, 5, 2));
  const auto cut = FromModel(model_, config)->Encode("abab", {.max_tokens = 4, .truncate = true});
  EXPECT_THAT(Ids(*cut), ElementsAre(1, 4, 5, 2));
  EXPECT_TRUE(cut->truncated);
  config.add_bos_token = false;
  EXPECT_THAT(Ids(*FromModel(model_, config)->Encode("a", {})), ElementsAre(4, 2));
  config.add_bos_token = true;
  config.special_tokens["bos_token"].content = "b";
  EXPECT_THAT(Ids(*FromModel(model_, config)->Encode("a", {})), ElementsAre(5, 4, 2));
  config.special_tokens["bos_token"].content = "<none>";
  const auto missing = ParseSentencePiece(model_, "tokenizer.model", config).status();
  EXPECT_THAT(Message(missing), AllOf(HasSubstr("tokenizer.model"), HasSubstr("'<none>'")));
}

TEST_F(SpecialTokensTest, AModelWithoutBosGetsNone) {
  const std::string model = PieceOf("<unk>", 0, Type::kUnknown) + PieceOf("a", -1) + Specs({});
  EXPECT_THAT(Ids(*FromModel(model)->Encode("a", {})), ElementsAre(1));
}

TEST_F(SpecialTokensTest, NamedOnesAreFoundInTextsAndOtherControlPiecesAreNot) {
  const auto tokenizer = FromModel(model_);
  EXPECT_THAT(PlainIds(*tokenizer, "a</s>b"), ElementsAre(4, 2, 5));
  EXPECT_THAT(PlainIds(*tokenizer, "a<ctl>"), ElementsAre(4, 0));
  for (int32_t id = 0; id < 4; ++id) EXPECT_TRUE(tokenizer->IsSpecial(id));
  EXPECT_FALSE(tokenizer->IsSpecial(4));
  const std::vector<int32_t> ids = {1, 4, 3, 5, 2};
  EXPECT_EQ(*tokenizer->Decode(ids, /*skip_special=*/true), "ab");
  EXPECT_EQ(*tokenizer->Decode(ids, /*skip_special=*/false), "<s>a<ctl>b</s>");
}

TEST_F(SpecialTokensTest, TheConfigAddsTokens) {
  TokenizerConfig config;
  AddedToken pad;
  pad.content = "<pad>";
  pad.id = 6;
  pad.special = pad.normalized = true;
  config.added_tokens = {pad};
  const auto tokenizer = FromModel(model_, config);
  EXPECT_THAT(PlainIds(*tokenizer, "a<pad>b"), ElementsAre(4, 6, 5));
  EXPECT_EQ(tokenizer->vocab_size(), 7);
  config.added_tokens[0].id = 5;
  EXPECT_THAT(Message(ParseSentencePiece(model_, "tokenizer.model", config).status()),
              HasSubstr("same id 5"));
}

TEST_F(SpecialTokensTest, OtherClassesAreUnsupported) {
  TokenizerConfig config;
  config.tokenizer_class = "LlamaTokenizer";
  EXPECT_TRUE(ParseSentencePiece(model_, "tokenizer.model", config).ok());
  config.tokenizer_class = "XLNetTokenizer";
  const auto status = ParseSentencePiece(model_, "tokenizer.model", config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(status), HasSubstr("XLNetTokenizer"));
}

// ---- BPE and Unigram ----

TEST(SentencePieceBpeTest, MergesTheBestScoreFirstThenFromTheLeft) {
  const std::string letters = PieceOf("a", -9) + PieceOf("b", -9) + PieceOf("c", -9);
  const auto tokenizer = FromModel(kSpecials + letters + PieceOf("bc", -1) + PieceOf("ab", -2) +
                                   PieceOf("aa", -2) + Specs({}));
  EXPECT_THAT(Spellings(*tokenizer, "abc"), ElementsAre("a", "bc"));
  EXPECT_THAT(Spellings(*tokenizer, "aab"), ElementsAre("aa", "b"));
  EXPECT_THAT(Spellings(*tokenizer, "aaa"), ElementsAre("aa", "a"));
}

TEST(SentencePieceBpeTest, NeighboursNeedNotBePieces) {
  const auto tokenizer = FromModel(kSpecials + PieceOf("xy", -1) + Specs({}));
  EXPECT_THAT(PlainIds(*tokenizer, "xyxzz"), ElementsAre(3, 0));
}

TEST(SentencePieceBpeTest, UnusedPiecesAreTakenApart) {
  const std::string letters = PieceOf("a", -9) + PieceOf("b", -9) + PieceOf("c", -9);
  const auto tokenizer =
      FromModel(kSpecials + letters + PieceOf("ab", -1, Type::kUnused) + PieceOf("abc", -2) +
                PieceOf("abab", -3, Type::kUnused) + Specs({}));
  EXPECT_THAT(Spellings(*tokenizer, "abc"), ElementsAre("abc"));
  EXPECT_THAT(Spellings(*tokenizer, "abab"), ElementsAre("a", "b", "a", "b"));
  EXPECT_THAT(Covered(*tokenizer, "abab"), ElementsAre("a", "b", "a", "b"));
}

TEST(SentencePieceBpeTest, UserDefinedPiecesAreKeptWhole) {
  const auto tokenizer =
      FromModel(kSpecials + PieceOf("a", -9) + PieceOf("b", -9) + PieceOf("ab", -1) +
                PieceOf("ba", 0, Type::kUserDefined) + Specs({}));
  EXPECT_THAT(Spellings(*tokenizer, "abab"), ElementsAre("a", "ba", "b"));
}

TEST(SentencePieceUnigramTest, TakesTheLargestSumOfScores) {
  const std::string letters = PieceOf("a", -3) + PieceOf("b", -3) + PieceOf("c", -3);
  const auto tokenizer = FromModel(kSpecials + letters + PieceOf("ab", -4) + PieceOf("bc", -3.5) +
                                   PieceOf("abc", -6.75) + PieceOf("cc", -9, Type::kUnused) +
                                   Specs({.kind = kUnigram}));
  EXPECT_THAT(Spellings(*tokenizer, "abc"), ElementsAre("a", "bc"));  // -6.5
  EXPECT_THAT(Spellings(*tokenizer, "ab"), ElementsAre("ab"));
  EXPECT_THAT(Spellings(*tokenizer, "cc"), ElementsAre("c", "c"));
  EXPECT_THAT(PlainIds(*tokenizer, "a\u00e9\u00e8b"), ElementsAre(3, 0, 4));
  EXPECT_THAT(Covered(*tokenizer, "a\u00e9\u00e8b"), ElementsAre("a", "\u00e9\u00e8", "b"));
}

// ---- The normalizer ----

std::string Normalized(SentencePieceFile model, const std::string& text) {
  const auto normalizer = MakeSentencePieceNormalizer(model);
  EXPECT_TRUE(normalizer.ok()) << normalizer.status();
  return (*normalizer)->Normalize(text, 0).text();
}

TEST(SentencePieceNormalizerTest, WhiteSpace) {
  EXPECT_EQ(Normalized({}, "  a  b "), "\u2581a\u2581b");
  EXPECT_EQ(Normalized({}, "   "), "");
  EXPECT_EQ(Normalized({.remove_extra_whitespaces = false}, " a  b "),
            "\u2581\u2581a\u2581\u2581b\u2581");
  EXPECT_EQ(Normalized({.remove_extra_whitespaces = false}, ""), "");
  EXPECT_EQ(Normalized({.add_dummy_prefix = false}, " a"), "a");
  EXPECT_EQ(Normalized({.escape_whitespaces = false}, "a b"), " a b");
  EXPECT_EQ(Normalized({.treat_whitespace_as_suffix = true}, "a b"), "a\u2581b\u2581");
}

// A double array of "a" -> x and "ab" -> yz by hand: a unit is its label, whether a value is below
// it, and the offset to its children.
std::string SmallMap() {
  const auto unit = [](uint32_t offset, bool has_value, uint32_t label) {
    return offset << 10 | static_cast<uint32_t>(has_value) << 8 | label;
  };
  std::vector<uint32_t> units(256);
  units[0] = unit(3, false, 0);                   // The root; children at 3 ^ byte.
  units[3 ^ 'a'] = unit(3 ^ 'a' ^ 2, true, 'a');  // Value at 2, children at 2 ^ byte.
  units[2] = uint32_t{1} << 31 | 0;
  units[2 ^ 'b'] = unit(2 ^ 'b' ^ 4, true, 'b');
  units[4] = uint32_t{1} << 31 | 2;
  std::string map = {0, 4, 0, 0};
  for (const uint32_t u : units) {
    for (int i = 0; i < 4; ++i) map += static_cast<char>(u >> (8 * i));
  }
  return map + std::string("x\0yz\0", 5);
}

TEST(CharacterMapTest, ReplacesTheLongest) {
  const SentencePieceFile model = {.character_map = SmallMap(), .add_dummy_prefix = false};
  EXPECT_EQ(Normalized(model, "abaacb"), "yzxxcb");
  SentencePieceFile with_piece = model;
  with_piece.pieces = {{"aba", 0, Type::kUserDefined}};
  EXPECT_EQ(Normalized(with_piece, "abab"), "abab");
}

TEST(CharacterMapTest, BrokenOnesAreRefused) {
  const std::string map = SmallMap();
  EXPECT_TRUE(CharacterMap::Create(map).ok());
  EXPECT_EQ(CharacterMap::Create(map)->growth(), 1);
  for (size_t size = 1; size < map.size(); ++size) {
    const auto status = CharacterMap::Create(map.substr(0, size)).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << size;
  }
  std::string not_utf8 = map;
  not_utf8[map.size() - 2] = '\xFF';
  EXPECT_THAT(Message(CharacterMap::Create(not_utf8).status()), HasSubstr("UTF-8"));
  std::mt19937 random(9);
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = map;
    for (int k = 0; k < 3; ++k) damaged[random() % map.size()] = static_cast<char>(random());
    const auto broken = CharacterMap::Create(damaged);
    if (broken.ok()) broken->FindLongest("ababab");
  }
}

TEST(CharacterMapTest, ARuleThatGrowsTooMuchIsRefused) {
  std::string map = SmallMap();
  map.insert(map.size() - 5, std::string(400, 'x'));
  const auto status =
      ParseSentencePiece(kSpecials + PieceOf("a", -1) + Specs({.map = map}), "tokenizer.model", {})
          .status();
  EXPECT_THAT(Message(status), HasSubstr("times as long"));
}

// ---- Damaged files ----

void ExpectBroken(const std::string& model, const std::string& what) {
  const auto status = ParseSentencePiece(model, "tokenizer.model", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(Message(status), AllOf(HasSubstr("tokenizer.model"), HasSubstr(what)));
}

TEST(SentencePieceFileTest, BrokenModelsAreRefused) {
  const std::string good = kSpecials + PieceOf("a", -1) + Specs({});
  ASSERT_TRUE(ParseSentencePiece(good, "tokenizer.model", {}).ok());
  ExpectBroken("", "no pieces");
  ExpectBroken("{\"model\": 1}", "not a SentencePiece model");
  ExpectBroken(good + "\x0A\x7F", "not a SentencePiece model");
  ExpectBroken(good + PieceOf("", 0), "piece 4: has 0 bytes");
  ExpectBroken(good + PieceOf(std::string(2000, 'x'), 0), "piece 4: has 2000 bytes");
  ExpectBroken(good + PieceOf("\xFF", 0), "piece 4: is not valid UTF-8");
  ExpectBroken(good + PieceOf("x", std::numeric_limits<float>::quiet_NaN()), "piece 4: ('x')");
  ExpectBroken(good + PieceOf("x", 0, static_cast<Type>(7)), "piece 4: the type 7");
  ExpectBroken(good + PieceOf("a", 0), "there twice");
  ExpectBroken(good + PieceOf("x", 0, Type::kUnknown), "pieces 0 and 4 are both of type unknown");
  ExpectBroken(PieceOf("a", -1), "no piece is of type unknown");
  ExpectBroken(good + PieceOf("<0x0>", 0, Type::kByte), "'<0x0>' is no byte");
  ExpectBroken(kSpecials + PieceOf("<0x00>", 0, Type::kByte) + Specs({.byte_fallback = true}),
               "<0x01>");
  ExpectBroken(kSpecials + Specs({.map = "abc"}), "character map");
}

TEST(SentencePieceFileTest, UnsupportedModelsAreNamed) {
  const auto expect = [](const std::string& model, const std::string& what) {
    const auto status = ParseSentencePiece(model, "tokenizer.model", {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_THAT(Message(status), AllOf(HasSubstr("tokenizer.model"), HasSubstr(what)));
  };
  expect(kSpecials + Specs({.kind = 3}), "model type 3");
  expect(kSpecials + Specs({}) + Bytes(5, Bytes(2, "xyz")), "denormalizer");
}

TEST(SentencePieceFileTest, DamageAnywhereIsAnErrorOrAModelThatWorks) {
  const std::string whole = ReadFile(Fixture("bpe") / "tokenizer.model");
  const auto check = [](const std::string& model) {
    auto pipeline = ParseSentencePiece(model, "tokenizer.model", {});
    if (!pipeline.ok()) {
      EXPECT_THAT(Message(pipeline.status()), HasSubstr("tokenizer.model"));
      return;
    }
    const auto encoding = MakeTokenizer(*std::move(pipeline))->Encode("The sea, caf\u00e9", {});
    EXPECT_TRUE(encoding.ok()) << encoding.status();
  };
  for (size_t size = 0; size < whole.size(); size += 13) check(whole.substr(0, size));
  std::mt19937 random(4);
  for (int i = 0; i < 500; ++i) {
    std::string damaged = whole;
    for (int k = 0; k < 4; ++k) damaged[random() % whole.size()] = static_cast<char>(random());
    check(damaged);
  }
}

TEST(SentencePieceFileTest, TokenizerJsonComesFirst) {
  const thresher::testing::TempDir directory;
  WriteFile(directory.path() / "tokenizer.model", kSpecials + PieceOf("a", -1) + Specs({}));
  EXPECT_EQ(LoadOrDie(directory.path())->vocab_size(), 4);
  WriteFile(directory.path() / "tokenizer_config.json",
            R"({"add_bos_token": false, "add_eos_token": true, "model_max_length": 512})");
  EXPECT_THAT(Ids(*LoadOrDie(directory.path())->Encode("a", {})), ElementsAre(3, 2));
  EXPECT_EQ(LoadOrDie(directory.path())->model_max_length(), 512);
  WriteFile(directory.path() / "tokenizer.json", SmallBert({"a", "b"}).dump());
  EXPECT_EQ(LoadOrDie(directory.path())->vocab_size(), 6);
}

}  // namespace
}  // namespace thresher::text
