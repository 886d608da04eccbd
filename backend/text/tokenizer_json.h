// The format of `tokenizer.json`.
#ifndef THRESHER_BACKEND_TEXT_TOKENIZER_JSON_H_
#define THRESHER_BACKEND_TEXT_TOKENIZER_JSON_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "backend/text/pipeline.h"

namespace thresher::text {

/// Reads the contents of a tokenizer.json; `name` is what errors call it. INVALID_ARGUMENT with the
/// place of what is broken; UNIMPLEMENTED with the type of a component that is not supported.
///
/// model: WordPiece, BPE (of bytes after ByteLevel, else of characters). normalizer:
/// BertNormalizer, Lowercase, NFC, NFD, NFKC, NFKD, StripAccents, Strip, Prepend, Replace (of a
/// string), Sequence. pre_tokenizer: BertPreTokenizer, ByteLevel, Metaspace, Whitespace,
/// WhitespaceSplit, Punctuation, Digits, Split (at a string, or by Llama 3's or Qwen2's
/// expression), Sequence. post_processor: TemplateProcessing, BertProcessing, RobertaProcessing,
/// ByteLevel, Sequence. decoder: WordPiece, ByteLevel, Metaspace, ByteFallback, Replace (of a
/// string), Fuse, Strip, Sequence.
///
/// `truncation` gives the model_max_length; nothing is cut, and `padding` has no meaning, since
/// batches are ragged.
absl::StatusOr<Pipeline> ParseTokenizerJson(std::string_view contents, std::string_view name);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_TOKENIZER_JSON_H_
