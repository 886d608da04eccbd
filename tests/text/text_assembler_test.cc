#include "backend/text/text_assembler.h"

#include <gtest/gtest.h>

#include <random>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Ids are bytes; what comes out is whole characters, 256 is special and 257 unknown.
class ByteTokenizer final : public Tokenizer {
 public:
  absl::StatusOr<Encoding> Encode(std::string_view text, const EncodeOptions&) const override {
    Encoding encoding;
    for (const char c : text) encoding.tokens.push_back({static_cast<unsigned char>(c)});
    return encoding;
  }
  absl::StatusOr<Encoding> EncodePair(std::string_view, std::string_view,
                                      const EncodeOptions&) const override {
    return Unimplemented("no pairs");
  }
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool) const override {
    return std::string(ids.begin(), ids.end());
  }
  std::unique_ptr<TextStream> DecodeStream(bool) const override {
    class Stream final : public TextStream {
     public:
      absl::StatusOr<std::string> Push(int32_t id) override {
        if (id == 256) return "";
        if (id > 256) return OutOfRange("token id {} is not known", id);
        if ((id & 0xc0) == 0xc0) needed_ = id >= 0xf0 ? 4 : id >= 0xe0 ? 3 : 2;
        bytes_ += static_cast<char>(id);
        if (bytes_.size() < needed_) return "";
        needed_ = 1;
        return std::exchange(bytes_, "");
      }
      std::string Finish() override { return bytes_.empty() ? "" : "\uFFFD"; }

     private:
      std::string bytes_;
      size_t needed_ = 1;
    };
    return std::make_unique<Stream>();
  }
  std::string_view TokenText(int32_t) const override { return ""; }
  int32_t TokenId(std::string_view) const override { return -1; }
  bool IsSpecial(int32_t id) const override { return id == 256; }
  int32_t vocab_size() const override { return 257; }
  int32_t model_max_length() const override { return 0; }
};

const ByteTokenizer kBytes;

/// Pushes until it stops; the pieces joined by "|", and "." where it stopped.
std::string Pieces(TextAssembler& text, std::string_view bytes) {
  std::string pieces;
  for (const char c : bytes) {
    pieces += text.Push(static_cast<unsigned char>(c)) + "|";
    if (text.stopped()) return pieces + ".";
  }
  pieces += text.Finish();
  return pieces + (text.stopped() ? "." : "");
}
std::string Pieces(std::vector<std::string> stop, std::string_view bytes) {
  TextAssembler text(kBytes, std::move(stop));
  return Pieces(text, bytes);
}

TEST(TextAssemblerTest, WithoutStopStringsEachTokenHasItsText) {
  EXPECT_EQ(Pieces({}, "abc"), "a|b|c|");
}

TEST(TextAssemblerTest, CharactersComeWhole) {
  EXPECT_EQ(Pieces({}, "aéz"), "a||é|z|");
  EXPECT_EQ(Pieces({}, "a\xC3"), "a||\uFFFD");
}

TEST(TextAssemblerTest, APromptsTextIsApartAndAnUnknownIdHasNone) {
  TextAssembler text(kBytes, {"ab"});
  EXPECT_EQ(text.PushPrompt('a'), "a");
  EXPECT_EQ(text.Push(256), "");
  EXPECT_EQ(text.Push(99999), "");
  EXPECT_EQ(text.Push('b'), "b");  // The stop string's beginning was in the prompt.
  EXPECT_FALSE(text.stopped());
}

TEST(TextAssemblerTest, AStopStringEndsTheTextBeforeIt) {
  EXPECT_EQ(Pieces({"cd"}, "abcdef"), "a|b|||.");
  EXPECT_EQ(Pieces({"c"}, "abcdef"), "a|b||.");
}

TEST(TextAssemblerTest, WhatMayBeAStopStringIsHeldBackUntilItIsNone) {
  EXPECT_EQ(Pieces({"cde"}, "abcdx"), "a|b|||cdx|");
  EXPECT_EQ(Pieces({"cde"}, "abcd"), "a|b|||cd");
  EXPECT_EQ(Pieces({"aab"}, "aaab"), "||a||.");  // It may begin again inside itself.
}

TEST(TextAssemblerTest, TheFirstToBeCompleteCountsAndOfEqualsTheLongest) {
  EXPECT_EQ(Pieces({"abcd", "bc"}, "abcd"), "||a|.");
  EXPECT_EQ(Pieces({"c", "abc"}, "abc"), "|||.");
}

TEST(TextAssemblerTest, AStopStringThatTheLastCharactersCompleteStopsToo) {
  EXPECT_EQ(Pieces({"\uFFFD"}, "a\xC3"), "a||.");
}

TEST(TextAssemblerTest, TheTextIsWhatASearchInTheWholeFinds) {
  std::mt19937 random(1);
  for (int round = 0; round < 5000; ++round) {
    const auto make = [&](size_t length) {
      std::string made;
      for (size_t i = 0; i < length; ++i) made += static_cast<char>('a' + random() % 2);
      return made;
    };
    const std::string bytes = make(random() % 20);
    std::vector<std::string> stop;
    for (size_t i = random() % 4; i > 0; --i) stop.push_back(make(1 + random() % 5));
    // By definition: the shortest beginning of the text that ends with a stop string.
    std::string expected = bytes;
    for (size_t end = 1; end <= bytes.size(); ++end) {
      size_t longest = 0;
      for (const std::string& s : stop) {
        if (bytes.substr(0, end).ends_with(s)) longest = std::max(longest, s.size());
      }
      if (longest == 0) continue;
      expected = bytes.substr(0, end - longest);
      break;
    }
    std::string pieces = Pieces(stop, bytes);
    std::erase_if(pieces, [](char c) { return c == '|' || c == '.'; });
    EXPECT_EQ(pieces, expected) << bytes;
  }
}

}  // namespace
}  // namespace thresher
