// Tokenizers from SentencePiece models: a directory with `tokenizer.model` and no tokenizer.json.
#ifndef THRESHER_BACKEND_TEXT_SENTENCEPIECE_H_
#define THRESHER_BACKEND_TEXT_SENTENCEPIECE_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "backend/text/pipeline.h"
#include "backend/text/tokenizer_config.h"

namespace thresher::text {

/// Unigram and BPE. Without a word in the config it is Llama's: BOS before a text, no EOS after it;
/// add_bos_token and add_eos_token say otherwise, bos_token and eos_token which ones they are.
/// These and the unknown one are found in texts, as are the config's added tokens; the text before,
/// between and after them is tokenized by the model, each part for itself.
///
/// `name` is what errors call the file. INVALID_ARGUMENT with the place of what is broken;
/// UNIMPLEMENTED for other kinds of model, and for a tokenizer_class that is not like Llama's.
absl::StatusOr<Pipeline> ParseSentencePiece(std::string_view contents, std::string_view name,
                                            const TokenizerConfig& config);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_SENTENCEPIECE_H_
