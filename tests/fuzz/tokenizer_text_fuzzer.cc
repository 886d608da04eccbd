// Texts of any bytes, through WordPiece and byte-level BPE. What must hold: spans within the text
// and in order, the limit obeyed, byte-level text decoded to what it was.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string_view>

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
  if (lossless && text.find("<mask>") == std::string_view::npos) {
    Require(*decoded == text, "byte-level text decodes to itself");
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
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Check(*word_piece, text, /*lossless=*/false);
  Check(*byte_level, text, /*lossless=*/true);
  Check(*added, text, /*lossless=*/false);
  return 0;
}
