// Texts of any bytes, through all kinds of tokenizers. What must hold: spans within the text and in
// order, the limit obeyed, a stream decoding to the same text, and to what it was where bytes
// allow.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/tensor/status.h"
#include "backend/text/tokenizer.h"
#include "backend/text/unicode.h"
#include "tests/testing/paths.h"

namespace {

using thresher::EncodedToken;
using thresher::Tokenizer;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

std::unique_ptr<Tokenizer> Load(const char* directory) {
  auto tokenizer = Tokenizer::Load((thresher::testing::SourceDir() / directory).string());
  if (!tokenizer.ok()) std::fprintf(stderr, "%s\n", thresher::Message(tokenizer.status()).c_str());
  Require(tokenizer.ok(), "the tokenizer loads");
  return *std::move(tokenizer);
}

void Check(const Tokenizer& tokenizer, std::string_view text, bool lossless) {
  const auto encoding = tokenizer.Encode(text, {.add_special_tokens = false});
  Require(encoding.ok() == !thresher::text::FindInvalidUtf8(text), "an error only for bad UTF-8");
  if (!encoding.ok()) return;
  std::vector<int32_t> ids;
  int32_t begin = 0;
  for (const EncodedToken& token : encoding->tokens) {
    Require(begin <= token.begin && token.begin <= token.end &&
                token.end <= static_cast<int32_t>(text.size()),
            "spans in order within the text");
    begin = token.begin;
    ids.push_back(token.id);
  }
  const auto decoded = tokenizer.Decode(ids, /*skip_special=*/false);
  Require(decoded.ok() && !thresher::text::FindInvalidUtf8(*decoded), "decoding gives UTF-8");
  std::string streamed;
  const auto stream = tokenizer.DecodeStream(/*skip_special=*/false);
  for (const int32_t id : ids) {
    const auto part = stream->Push(id);
    Require(part.ok() && !thresher::text::FindInvalidUtf8(*part),
            "a stream gives whole characters");
    streamed += *part;
  }
  streamed += stream->Finish();
  Require(streamed == *decoded, "a stream gives the same text");
  // Added tokens take spaces with them or get some, and U+2581 is how others spell a space.
  const auto has = [&](std::string_view part) { return text.find(part) != std::string_view::npos; };
  if (lossless && !has("<mask>") && !has("<s>") && !has("</s>") && !has("<unk>") &&
      !has("\u2581")) {
    Require(*decoded == text, "text of bytes decodes to itself");
  }
  const std::string_view half = text.substr(0, text.size() / 2);
  const auto pair = tokenizer.EncodePair(text, half, {.max_tokens = 16, .truncate = true});
  if (pair.ok()) Require(pair->tokens.size() <= 16, "the limit");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::unique_ptr<Tokenizer> word_piece = Load("models/sst2-mini");
  static const std::unique_ptr<Tokenizer> byte_level = Load("tests/text/golden/byte_level");
  static const std::unique_ptr<Tokenizer> added = Load("tests/text/golden/added_tokens");
  static const std::unique_ptr<Tokenizer> byte_fallback = Load("tests/text/golden/byte_fallback");
  static const std::unique_ptr<Tokenizer> metaspace = Load("tests/text/golden/metaspace");
  static const std::unique_ptr<Tokenizer> bpe = Load("tests/text/golden/sentencepiece_bpe");
  static const std::unique_ptr<Tokenizer> unigram = Load("tests/text/golden/sentencepiece_unigram");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Check(*word_piece, text, /*lossless=*/false);
  Check(*byte_level, text, /*lossless=*/true);
  Check(*added, text, /*lossless=*/false);
  Check(*byte_fallback, text, /*lossless=*/true);
  Check(*metaspace, text, /*lossless=*/false);
  Check(*bpe, text, /*lossless=*/true);
  Check(*unigram, text, /*lossless=*/false);
  return 0;
}
