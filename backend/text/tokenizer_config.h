// What `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` say: needed where
// a vocabulary comes without tokenizer.json.
#ifndef THRESHER_BACKEND_TEXT_TOKENIZER_CONFIG_H_
#define THRESHER_BACKEND_TEXT_TOKENIZER_CONFIG_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "backend/text/added_tokens.h"

namespace thresher::text {

struct TokenizerConfig {
  std::string tokenizer_class;  // Without "Fast" at its end; empty if unknown.
  int32_t model_max_length = 0;
  bool do_lower_case = true;
  std::optional<bool> strip_accents;
  bool tokenize_chinese_chars = true;
  bool add_prefix_space = false;
  bool trim_offsets = true;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;

  /// By role: "unk_token", "cls_token", ... Their ids are not known here.
  std::map<std::string, AddedToken, std::less<>> special_tokens;
  std::vector<AddedToken> additional_special_tokens;
  /// With their ids.
  std::vector<AddedToken> added_tokens;

  /// Each takes in one file; a later one wins. INVALID_ARGUMENT with file and place.
  absl::Status MergeTokenizerConfig(std::string_view contents, std::string_view name);
  absl::Status MergeSpecialTokensMap(std::string_view contents, std::string_view name);
  absl::Status MergeAddedTokens(std::string_view contents, std::string_view name);
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_TOKENIZER_CONFIG_H_
