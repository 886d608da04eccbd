// Decoders: from the spellings of tokens back to text, all at once or one after another.
//
//   Decoder decoder({ReplaceStep("\u2581", " "), ByteFallbackStep()});
//   Decoder::Stream stream = decoder.Begin();
//   for (std::string_view token : tokens) stream.Push(token, text);  // Final as far as it goes.
//   stream.Finish(text);                                             // == decoder.Decode(tokens)
#ifndef THRESHER_BACKEND_TEXT_DECODER_H_
#define THRESHER_BACKEND_TEXT_DECODER_H_

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"

namespace thresher::text {

/// What one step of a decoder does in one decoding; it may remember what it saw. Text goes in and
/// out as valid UTF-8.
class DecodeStep {
 public:
  using Next = absl::FunctionRef<void(std::string_view token)>;

  virtual ~DecodeStep() = default;
  /// Takes a token and hands on those that are final.
  virtual void Push(std::string_view token, Next next) = 0;
  /// Hands on what it held back.
  virtual void Finish(Next) {}
};
using MakeDecodeStep = std::function<std::unique_ptr<DecodeStep>()>;

/// Steps, one after another; the text is what the last hands on. Immutable.
class Decoder {
 public:
  /// One decoding. Holds back a few characters at most, and no half of one ever comes out.
  class Stream {
   public:
    /// Appends to `text` what is final now. The token is valid UTF-8.
    void Push(std::string_view token, std::string& text) { PushFrom(0, token, text); }
    /// Appends the rest. No Push after it.
    void Finish(std::string& text);

   private:
    friend class Decoder;
    void PushFrom(size_t step, std::string_view token, std::string& text);
    std::vector<std::unique_ptr<DecodeStep>> steps_;
  };

  explicit Decoder(std::vector<MakeDecodeStep> steps) : steps_(std::move(steps)) {}

  Stream Begin() const;
  std::string Decode(std::span<const std::string_view> tokens) const;

 private:
  std::vector<MakeDecodeStep> steps_;
};

/// Tokens with spaces between them, those with the prefix joined to the one before; `cleanup`
/// takes out the spaces before punctuation and English contractions.
MakeDecodeStep WordPieceStep(std::string_view prefix, bool cleanup);
/// The bytes that the tokens spell (byte_level.h); what is then not UTF-8 becomes U+FFFD.
MakeDecodeStep ByteLevelStep();
/// Tokens with spaces between them: what a tokenizer without a decoder does.
MakeDecodeStep JoinStep();

/// Replaces a string, which is not empty, in each token.
MakeDecodeStep ReplaceStep(std::string_view pattern, std::string_view content);
/// Tokens spelled <0x00> to <0xFF> are bytes: those that follow each other are put together to
/// characters, and U+FFFD stands for each byte that is part of none.
MakeDecodeStep ByteFallbackStep();
/// Removes at most `start` times `content` from the beginning and `stop` times from the end: of the
/// whole text if `whole`, else of each token.
struct StripOptions {
  char32_t content = U' ';
  int start = 0;
  int stop = 0;
  bool whole = false;
};
MakeDecodeStep StripStep(const StripOptions& options);
/// Spaces for the replacement of a Metaspace pre-tokenizer (metaspace.h); none in the first token
/// if `drop_first`.
MakeDecodeStep MetaspaceStep(char32_t replacement, bool drop_first);
/// Spaces for U+2581; what the text's first tokens begin with is dropped, as SentencePiece does it.
enum class LeadingSpace {
  kKeep,
  kDropOne,   // One, of the first token.
  kDropEach,  // One of each token before the first text.
};
MakeDecodeStep SentencePieceSpaceStep(LeadingSpace leading);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_DECODER_H_
