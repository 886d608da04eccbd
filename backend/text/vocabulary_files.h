// Vocabularies from before tokenizer.json: `vocab.txt`, or `vocab.json` with `merges.txt`.
#ifndef THRESHER_BACKEND_TEXT_VOCABULARY_FILES_H_
#define THRESHER_BACKEND_TEXT_VOCABULARY_FILES_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "backend/text/pipeline.h"
#include "backend/text/tokenizer_config.h"

namespace thresher::text {

/// BERT: one token a line, its id the number of the line from 0. Without a word in the config it is
/// the uncased BERT. `name` is what errors call the file. INVALID_ARGUMENT with the line of a token
/// that is there twice, or if [UNK], [CLS] or [SEP] is missing; UNIMPLEMENTED for a tokenizer_class
/// that is no plain BERT.
absl::StatusOr<Pipeline> ParseVocabTxt(std::string_view contents, std::string_view name,
                                       const TokenizerConfig& config);

/// RoBERTa, or GPT-2: whichever tokenizer_class names, else RoBERTa if there is a token </s>.
absl::StatusOr<Pipeline> ParseVocabAndMerges(std::string_view vocab, std::string_view vocab_name,
                                             std::string_view merges, std::string_view merges_name,
                                             const TokenizerConfig& config);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_VOCABULARY_FILES_H_
