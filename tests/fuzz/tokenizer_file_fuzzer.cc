// Tokenizer files of any bytes: loading ends with a Status or with a tokenizer that works.
//
// The first byte says what the rest is: tokenizer.json, vocab.txt, vocab.txt with a config,
// vocab.json with merges.txt (parted by the first zero byte), or tokenizer.model.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/text/pipeline.h"
#include "backend/text/sentencepiece.h"
#include "backend/text/tokenizer_config.h"
#include "backend/text/tokenizer_json.h"
#include "backend/text/vocabulary_files.h"

namespace {

using thresher::text::Pipeline;
using thresher::text::TokenizerConfig;

std::pair<std::string_view, std::string_view> PartAtZero(std::string_view input) {
  const size_t zero = input.find('\0');
  if (zero == std::string_view::npos) return {input, {}};
  return {input.substr(0, zero), input.substr(zero + 1)};
}

absl::StatusOr<Pipeline> Parse(char kind, std::string_view input) {
  TokenizerConfig config;
  switch (kind) {
    case 'v':
      return ParseVocabTxt(input, "vocab.txt", config);
    case 'c': {
      const auto [json, vocab] = PartAtZero(input);
      if (auto s = config.MergeTokenizerConfig(json, "tokenizer_config.json"); !s.ok()) return s;
      return ParseVocabTxt(vocab, "vocab.txt", config);
    }
    case 'm': {
      const auto [vocab, merges] = PartAtZero(input);
      return ParseVocabAndMerges(vocab, "vocab.json", merges, "merges.txt", config);
    }
    case 's':
      return ParseSentencePiece(input, "tokenizer.model", config);
    default:
      return thresher::text::ParseTokenizerJson(input, "tokenizer.json");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  auto pipeline = Parse(input[0], input.substr(1));
  if (!pipeline.ok()) {
    if (pipeline.status().message().empty()) std::abort();
    return 0;
  }
  const auto tokenizer = MakeTokenizer(*std::move(pipeline));
  const auto encoding =
      tokenizer->EncodePair("Some text, h\u00e9 \u4e2d ab", "[MASK]  ab \u2581<s>1\n", {});
  if (!encoding.ok()) return 0;
  std::vector<int32_t> ids;
  std::string streamed;
  const auto stream = tokenizer->DecodeStream(false);
  for (const auto& token : encoding->tokens) {
    ids.push_back(token.id);
    const auto text = stream->Push(token.id);
    if (!text.ok()) std::abort();
    streamed += *text;
  }
  streamed += stream->Finish();
  const auto decoded = tokenizer->Decode(ids, false);
  if (!decoded.ok() || *decoded != streamed) std::abort();
  return 0;
}
