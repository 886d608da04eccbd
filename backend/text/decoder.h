// Decoders: from the spellings of tokens back to text.
#ifndef THRESHER_BACKEND_TEXT_DECODER_H_
#define THRESHER_BACKEND_TEXT_DECODER_H_

#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace thresher::text {

class Decoder {
 public:
  virtual ~Decoder() = default;
  /// The tokens are valid UTF-8, and so is the result.
  virtual std::string Decode(std::span<const std::string_view> tokens) const = 0;
};

/// Joins tokens with spaces, those with the prefix to the one before; `cleanup` takes out the
/// spaces before punctuation and English contractions.
std::unique_ptr<Decoder> MakeWordPieceDecoder(std::string_view prefix, bool cleanup);
/// The bytes that the tokens spell; what is then not UTF-8 becomes U+FFFD.
std::unique_ptr<Decoder> MakeByteLevelDecoder();
/// Tokens with spaces between them: what a tokenizer without a decoder does.
std::unique_ptr<Decoder> MakeJoiningDecoder();

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_DECODER_H_
