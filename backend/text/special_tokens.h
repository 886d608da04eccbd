// The special and added tokens that configuration files tell, for vocabularies without
// tokenizer.json.
#ifndef THRESHER_BACKEND_TEXT_SPECIAL_TOKENS_H_
#define THRESHER_BACKEND_TEXT_SPECIAL_TOKENS_H_

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "backend/text/pipeline.h"
#include "backend/text/tokenizer_config.h"
#include "backend/text/vocabulary.h"

namespace thresher::text {

/// How a class of tokenizers spells a special token unless the config says otherwise.
struct DefaultToken {
  const char* role;
  std::string_view content;
  bool lstrip = false;
};

/// The config with the defaults for the roles that it leaves open.
TokenizerConfig WithDefaults(const TokenizerConfig& config, std::span<const DefaultToken> tokens);

/// Puts the config's tokens into the pipeline, once its model is made. INVALID_ARGUMENT for an id
/// that another token has.
absl::Status AddTokens(const TokenizerConfig& config, Pipeline& pipeline);

/// The id of the token that the config has for a role. INVALID_ARGUMENT, with the file's `name`, if
/// it is not in the vocabulary.
absl::StatusOr<int32_t> FindSpecial(const TokenizerConfig& config, const char* role,
                                    const Vocabulary& vocabulary, std::string_view name);

/// UNIMPLEMENTED unless the config's tokenizer_class is one of the known, or not told.
absl::Status CheckClass(const TokenizerConfig& config, std::string_view name,
                        std::span<const std::string_view> known);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_SPECIAL_TOKENS_H_
