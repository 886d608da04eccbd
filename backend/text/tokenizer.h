// Text to token ids and back: WordPiece (BERT, DistilBERT), byte-level BPE (RoBERTa, GPT-2, OPT)
// and BPE with byte fallback (Llama), as Hugging Face's `tokenizers` define them; SentencePiece
// models.
//
// A tokenizer is immutable after Load and safe to use from any number of threads.
#ifndef THRESHER_BACKEND_TEXT_TOKENIZER_H_
#define THRESHER_BACKEND_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace thresher {

/// One token of an Encoding.
struct EncodedToken {
  int32_t id = 0;
  int32_t type_id = 0;  // Token type (segment) as the model wants it.
  /// Bytes [begin, end) of the original text, on character boundaries; 0, 0 for a special token
  /// that was added. Byte-level tokens that are parts of one character have the whole of it each.
  int32_t begin = 0;
  int32_t end = 0;
  int32_t sequence = -1;  // 0: first text, 1: second text, -1: a special token that was added.
};

struct Encoding {
  std::vector<EncodedToken> tokens;
  bool truncated = false;
};

struct EncodeOptions {
  bool add_special_tokens = true;
  /// The most tokens the result may have, special tokens included; 0: no limit.
  int32_t max_tokens = 0;
  /// Over max_tokens: cut (longest text of a pair first, from the right) instead of an error.
  bool truncate = false;
};

/// Decodes ids that come one by one, as they are generated: the texts of all pushes and of Finish,
/// together, are what Decode makes of all ids. To go on from a prompt, push its ids first and drop
/// their text: whether a token begins with a space depends on what is before it.
///
/// A text is final when it comes out, and whole characters; a few at most are held back.
class TextStream {
 public:
  virtual ~TextStream() = default;
  /// What this id makes final; may be empty. OUT_OF_RANGE for an unknown id, which changes nothing.
  virtual absl::StatusOr<std::string> Push(int32_t id) = 0;
  /// What was held back. Nothing may be pushed after it.
  virtual std::string Finish() = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Reads `tokenizer.json`, or else `tokenizer.model` (SentencePiece), `vocab.txt` (WordPiece) or
  /// `vocab.json` + `merges.txt` (byte-level BPE), the first that is there, with
  /// `tokenizer_config.json` and `special_tokens_map.json` where present.
  /// NOT_FOUND when the directory has none of them; INVALID_ARGUMENT with file and place when one
  /// is broken; UNIMPLEMENTED, with its name, for a kind or a component that is not supported.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& directory);

  /// INVALID_ARGUMENT: text that is not UTF-8 (says at which byte), too long without `truncate`
  /// (says how many tokens it has), or longer than 16 MiB; a limit below the number of special
  /// tokens. Empty text is fine.
  virtual absl::StatusOr<Encoding> Encode(std::string_view text,
                                          const EncodeOptions& options) const = 0;
  virtual absl::StatusOr<Encoding> EncodePair(std::string_view first, std::string_view second,
                                              const EncodeOptions& options) const = 0;

  /// The text of the ids, special tokens left out if `skip_special`. OUT_OF_RANGE for an unknown
  /// id.
  virtual absl::StatusOr<std::string> Decode(std::span<const int32_t> ids,
                                             bool skip_special) const = 0;

  /// Decodes one by one. The tokenizer must outlive the stream; a stream belongs to one thread.
  virtual std::unique_ptr<TextStream> DecodeStream(bool skip_special) const = 0;

  /// The vocabulary's own spelling of a token ("##ing", "Ġthe"); empty for an unknown id.
  virtual std::string_view TokenText(int32_t id) const = 0;
  /// The id of a token by its own spelling; -1 if there is none.
  virtual int32_t TokenId(std::string_view token) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  /// One more than the largest id.
  virtual int32_t vocab_size() const = 0;
  /// What tokenizer_config.json calls model_max_length, or else the length of tokenizer.json's
  /// truncation; 0 if none. Nothing is cut unless EncodeOptions says so.
  virtual int32_t model_max_length() const = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_TEXT_TOKENIZER_H_
