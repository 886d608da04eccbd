#include "backend/text/special_tokens.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "backend/tensor/status.h"

namespace thresher::text {

TokenizerConfig WithDefaults(const TokenizerConfig& config, std::span<const DefaultToken> tokens) {
  TokenizerConfig result = config;
  for (const DefaultToken& token : tokens) {
    AddedToken special;
    special.content = token.content;
    special.lstrip = token.lstrip;
    special.special = true;
    result.special_tokens.try_emplace(token.role, special);
    // A plain string in the config says nothing of flags; those of the class stay.
    AddedToken& named = result.special_tokens[token.role];
    if (named.content == token.content) named.lstrip |= token.lstrip;
  }
  return result;
}

absl::Status AddTokens(const TokenizerConfig& config, Pipeline& pipeline) {
  Vocabulary& vocabulary = *pipeline.vocabulary;
  std::vector<AddedToken> tokens;
  for (const AddedToken& token : config.added_tokens) {
    if (vocabulary.Find(token.content) != token.id) {
      if (auto status = vocabulary.Add(token.content, token.id); !status.ok()) {
        return Annotate(status, "added tokens");
      }
    }
    tokens.push_back(token);
  }
  const auto add_special = [&](AddedToken token) {
    token.id = vocabulary.Find(token.content);
    const auto same = [&](const AddedToken& other) { return other.id == token.id; };
    if (token.id < 0 || std::any_of(tokens.begin(), tokens.end(), same)) return;
    tokens.push_back(std::move(token));
  };
  for (const auto& [role, token] : config.special_tokens) add_special(token);
  for (const AddedToken& token : config.additional_special_tokens) add_special(token);
  pipeline.added_tokens = AddedTokens(std::move(tokens), pipeline.normalizer.get());
  return absl::OkStatus();
}

absl::StatusOr<int32_t> FindSpecial(const TokenizerConfig& config, const char* role,
                                    const Vocabulary& vocabulary, std::string_view name) {
  const std::string& content = config.special_tokens.at(role).content;
  const int32_t id = vocabulary.Find(content);
  if (id >= 0) return id;
  return InvalidArgument("{}: the {} '{}' is not in the vocabulary", name, role, content);
}

absl::Status CheckClass(const TokenizerConfig& config, std::string_view name,
                        std::span<const std::string_view> known) {
  const std::string& type = config.tokenizer_class;
  if (type.empty() || type == "PreTrainedTokenizer" ||
      std::find(known.begin(), known.end(), type) != known.end()) {
    return absl::OkStatus();
  }
  return Unimplemented("{}: tokenizer_class '{}' is not supported without a tokenizer.json", name,
                       type);
}

}  // namespace thresher::text
