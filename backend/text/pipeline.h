// The tokenizer that all file formats describe: added tokens, normalizer, pre-tokenizer, model,
// post-processor and decoder, in this order.
#ifndef THRESHER_BACKEND_TEXT_PIPELINE_H_
#define THRESHER_BACKEND_TEXT_PIPELINE_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "backend/text/added_tokens.h"
#include "backend/text/byte_level.h"
#include "backend/text/decoder.h"
#include "backend/text/metaspace.h"
#include "backend/text/normalizer.h"
#include "backend/text/post_processor.h"
#include "backend/text/pre_tokenizer.h"
#include "backend/text/token_model.h"
#include "backend/text/tokenizer.h"
#include "backend/text/vocabulary.h"

namespace thresher::text {

/// The longest text, in bytes, and the most that normalizing may make it grow: positions in
/// normalized text fit an int32_t.
inline constexpr size_t kLongestText = size_t{16} << 20;
inline constexpr int64_t kMostGrowth = 64;

struct Pipeline {
  std::unique_ptr<Vocabulary> vocabulary;  // All tokens, added ones too.
  std::unique_ptr<Normalizer> normalizer;  // Null: none.
  AddedTokens added_tokens;
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // Null: none.
  // The last step of pre-tokenizing, where present: at most one of the two.
  std::optional<ByteLevelOptions> byte_level;
  std::optional<MetaspaceOptions> metaspace;
  std::unique_ptr<TokenModel> model;
  PostProcessor post_processor;
  Decoder decoder{{}};
  int32_t model_max_length = 0;
};

std::unique_ptr<Tokenizer> MakeTokenizer(Pipeline pipeline);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_PIPELINE_H_
