// Decoding: the steps, characters out of bytes, and streams against decoding all at once.
#include "backend/text/decoder.h"

#include "backend/text/byte_fallback.h"
#include "backend/text/unicode.h"
#include "backend/text/utf8_assembler.h"
#include "tests/testing/paths.h"
#include "tests/text/tokenizer_testing.h"

namespace thresher::text {
namespace {

using thresher::testing::SourceDir;

std::string Decode(std::vector<MakeDecodeStep> steps, const std::vector<std::string_view>& tokens) {
  return Decoder(std::move(steps)).Decode(tokens);
}

TEST(DecodeStepTest, BytesBecomeCharacters) {
  const auto decode = [](const std::vector<std::string_view>& tokens) {
    return Decode({ByteFallbackStep()}, tokens);
  };
  EXPECT_EQ(decode({"a", "<0xE4>", "<0xB8>", "<0xAD>", "b"}), "a\u4e2db");
  EXPECT_EQ(decode({"<0x41>", "<0x0a>"}), "A\n");
  // One mark for each byte that is part of no character.
  EXPECT_EQ(decode({"<0xE4>", "<0xB8>", "b"}), "\uFFFD\uFFFDb");
  EXPECT_EQ(decode({"<0xE4>", "<0x41>", "<0xFF>", "<0xC3>", "<0xA9>"}), "\uFFFDA\uFFFD\u00e9");
  EXPECT_EQ(decode({"<0xE4>"}), "\uFFFD");
  EXPECT_EQ(decode({"<0xE4", "<0xG0>", "<0x1>"}), "<0xE4<0xG0><0x1>");
}

TEST(DecodeStepTest, StripOfEachTokenOrOfTheWholeText) {
  const std::vector<std::string_view> tokens = {" ", "  a ", " ", "b   "};
  EXPECT_EQ(Decode({StripStep({.start = 1})}, tokens), " a b   ");
  EXPECT_EQ(Decode({StripStep({.start = 1, .whole = true})}, tokens), "  a  b   ");
  EXPECT_EQ(Decode({StripStep({.start = 2, .whole = true})}, tokens), " a  b   ");
  EXPECT_EQ(Decode({StripStep({.stop = 1})}, tokens), "  ab  ");
  EXPECT_EQ(Decode({StripStep({.stop = 2, .whole = true})}, tokens), "   a  b ");
  EXPECT_EQ(Decode({StripStep({.start = 9, .stop = 9, .whole = true})}, tokens), "a  b");
  EXPECT_EQ(Decode({StripStep({.content = U'\u00e9', .start = 1, .stop = 1})}, {"\u00e9a\u00e9"}),
            "a");
}

TEST(DecodeStepTest, SpacesOfMetaspaceAndSentencePiece) {
  const std::vector<std::string_view> tokens = {"\u2581", "\u2581\u2581a", "\u2581b"};
  EXPECT_EQ(Decode({MetaspaceStep(U'\u2581', /*drop_first=*/true)}, tokens), "  a b");
  EXPECT_EQ(Decode({MetaspaceStep(U'\u2581', /*drop_first=*/false)}, tokens), "   a b");
  EXPECT_EQ(Decode({SentencePieceSpaceStep(LeadingSpace::kKeep)}, tokens), "   a b");
  EXPECT_EQ(Decode({SentencePieceSpaceStep(LeadingSpace::kDropOne)}, tokens), "  a b");
  EXPECT_EQ(Decode({SentencePieceSpaceStep(LeadingSpace::kDropEach)}, tokens), " a b");
  EXPECT_EQ(Decode({SentencePieceSpaceStep(LeadingSpace::kDropEach)}, {"a", "\u2581b"}), "a b");
}

TEST(DecodeStepTest, ReplaceGoesFromTheLeft) {
  EXPECT_EQ(Decode({ReplaceStep("aa", "a")}, {"aaaaa", "a"}), "aaaa");
}

std::string RandomBytes(std::mt19937& random) {
  static constexpr unsigned char kBytes[] = {'a',  0x80, 0xBF, 0xC2, 0xC3, 0xA9, 0xE0, 0xA0,
                                             0xE4, 0xB8, 0xAD, 0xED, 0xF0, 0x9F, 0xF4, 0xFF};
  std::string bytes;
  for (auto n = random() % 12; n > 0; --n) bytes += static_cast<char>(kBytes[random() % 16]);
  return bytes;
}

TEST(Utf8AssemblerTest, DoesNotDependOnWherePiecesEnd) {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    const std::string bytes = RandomBytes(random);
    for (const auto replacement :
         {Utf8Assembler::Replacement::kEachByte, Utf8Assembler::Replacement::kEachSequence}) {
      Utf8Assembler whole(replacement), parts(replacement);
      std::string expected, text;
      whole.Push(bytes, expected);
      whole.Finish(expected);
      for (size_t begin = 0; begin < bytes.size();) {
        const size_t size = 1 + random() % 3;
        parts.Push(std::string_view(bytes).substr(begin, size), text);
        ASSERT_FALSE(FindInvalidUtf8(text));
        begin += size;
      }
      parts.Finish(text);
      ASSERT_EQ(text, expected);
      ASSERT_TRUE(parts.empty());
      if (replacement == Utf8Assembler::Replacement::kEachSequence) {
        ASSERT_EQ(text, ReplaceInvalidUtf8(bytes));
      }
    }
  }
}

TEST(Utf8AssemblerTest, ACharacterComesOutWithItsLastByte) {
  Utf8Assembler assembler(Utf8Assembler::Replacement::kEachByte);
  std::string text;
  assembler.Push("\xF0\x9F\xA6", text);
  EXPECT_EQ(text, "");
  assembler.Push("\x99", text);
  EXPECT_EQ(text, "\U0001F999");
  assembler.Push("\xFF", text);  // Never part of a character.
  EXPECT_EQ(text, "\U0001F999\uFFFD");
}

// ---- Streams ----

class TextStreamTest : public ::testing::TestWithParam<const char*> {
 protected:
  // Decodes one by one; what must hold at every step does.
  void ExpectSame(const std::vector<int32_t>& ids, bool skip_special) {
    const std::string whole = *tokenizer_->Decode(ids, skip_special);
    const auto stream = tokenizer_->DecodeStream(skip_special);
    std::string text;
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto part = stream->Push(ids[i]);
      ASSERT_TRUE(part.ok()) << part.status();
      ASSERT_FALSE(FindInvalidUtf8(*part));
      text += *part;
      // No more is held back than three bytes of a character, of which U+FFFD may become.
      if (i % 8 != 0) continue;
      const std::string so_far = *tokenizer_->Decode(std::span(ids).first(i + 1), skip_special);
      ASSERT_TRUE(so_far.starts_with(text)) << text << " | " << so_far;
      ASSERT_LE(so_far.size(), text.size() + 9);
    }
    text += stream->Finish();
    ASSERT_EQ(text, whole);
  }

  const std::unique_ptr<Tokenizer> tokenizer_ = LoadOrDie(SourceDir() / GetParam());
};

TEST_P(TextStreamTest, GivesTheTextOfAllIds) {
  std::mt19937 random(6);
  for (int i = 0; i < 600; ++i) {
    ExpectSame(Ids(*tokenizer_->Encode(RandomText(random, 40), {})), i % 2 == 0);
    std::vector<int32_t> ids;
    for (auto n = random() % 40; n > 0; --n) {
      // The first ids have the special tokens and, in most vocabularies, the bytes.
      const auto below = static_cast<uint32_t>(tokenizer_->vocab_size());
      ids.push_back(static_cast<int32_t>(random() % (n % 2 == 0 ? std::min(270u, below) : below)));
    }
    ExpectSame(ids, i % 2 == 0);
  }
}

TEST_P(TextStreamTest, AnUnknownIdChangesNothing) {
  const auto stream = tokenizer_->DecodeStream(true);
  const std::vector<int32_t> ids = Ids(*tokenizer_->Encode("so h\u00e9", {}));
  std::string text;
  for (const int32_t id : ids) {
    for (const int32_t unknown : {-1, tokenizer_->vocab_size()}) {
      EXPECT_EQ(stream->Push(unknown).status().code(), absl::StatusCode::kOutOfRange);
    }
    text += *stream->Push(id);
  }
  text += stream->Finish();
  EXPECT_EQ(text, *tokenizer_->Decode(ids, true));
}

INSTANTIATE_TEST_SUITE_P(
    AllKinds, TextStreamTest,
    ::testing::Values("models/sst2-mini", "tests/text/golden/byte_level",
                      "tests/text/golden/added_tokens", "tests/text/golden/byte_fallback",
                      "tests/text/golden/metaspace", "tests/text/golden/sentencepiece_bpe",
                      "tests/text/golden/sentencepiece_unigram"),
    [](const auto& info) {
      std::string name = std::filesystem::path(info.param).filename();
      std::erase_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
      return name;
    });

TEST(TextStreamTest, GoesOnFromAPrompt) {
  const auto tokenizer = LoadOrDie(SourceDir() / "tests/text/golden/byte_fallback");
  const std::vector<int32_t> more = {tokenizer->TokenId("\u2581the")};
  EXPECT_EQ(*tokenizer->DecodeStream(true)->Push(more[0]), "the");
  const auto stream = tokenizer->DecodeStream(true);
  for (const int32_t id : Ids(*tokenizer->Encode("see", {}))) ASSERT_TRUE(stream->Push(id).ok());
  EXPECT_EQ(*stream->Push(more[0]), " the");
}

}  // namespace
}  // namespace thresher::text
