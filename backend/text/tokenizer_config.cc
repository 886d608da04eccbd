#include "backend/text/tokenizer_config.h"

#include <charconv>
#include <limits>
#include <utility>

#include "backend/tensor/status.h"
#include "backend/text/json_components.h"
#include "backend/text/json_node.h"

namespace thresher::text {
namespace {

using nlohmann::json;

constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();

// A special token is a string, or an object with flags.
absl::StatusOr<AddedToken> ParseSpecialToken(const JsonNode& node) {
  AddedToken token;
  if (node.value().is_object()) {
    THRESHER_ASSIGN_OR_RETURN(token, ParseAddedToken(node));
  } else {
    THRESHER_ASSIGN_OR_RETURN(token.content, node.String());
  }
  token.special = true;
  token.normalized = false;
  return token;
}

absl::Status MergeSpecialTokens(const JsonNode& root, TokenizerConfig& config) {
  THRESHER_RETURN_IF_ERROR(root.ExpectObject());
  for (const char* role : {"unk_token", "cls_token", "sep_token", "pad_token", "mask_token",
                           "bos_token", "eos_token"}) {
    if (!root.Has(role)) continue;
    THRESHER_ASSIGN_OR_RETURN(const JsonNode node, root.Get(role));
    THRESHER_ASSIGN_OR_RETURN(config.special_tokens[role], ParseSpecialToken(node));
  }
  if (!root.Has("additional_special_tokens")) return absl::OkStatus();
  THRESHER_ASSIGN_OR_RETURN(const JsonNode list, root.Get("additional_special_tokens"));
  THRESHER_RETURN_IF_ERROR(list.ExpectArray());
  config.additional_special_tokens.clear();
  for (size_t i = 0; i < list.value().size(); ++i) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode node, list.At(i));
    THRESHER_ASSIGN_OR_RETURN(AddedToken token, ParseSpecialToken(node));
    config.additional_special_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// A huge number means that there is no limit.
absl::StatusOr<int32_t> ParseMaxLength(const JsonNode& root) {
  if (!root.Has("model_max_length")) return 0;
  THRESHER_ASSIGN_OR_RETURN(const JsonNode node, root.Get("model_max_length"));
  if (!node.value().is_number()) {
    return node.Error("expected a number, found {}", node.value().type_name());
  }
  const double length = node.value().get<double>();
  if (!(length >= 0)) return node.Error("{} is negative", length);
  return length > static_cast<double>(kMostTokens) ? 0 : static_cast<int32_t>(length);
}

}  // namespace

absl::Status TokenizerConfig::MergeTokenizerConfig(std::string_view contents,
                                                   std::string_view name) {
  THRESHER_ASSIGN_OR_RETURN(const json document, ParseJson(contents, name));
  const JsonNode root(&document, std::string(name));
  THRESHER_ASSIGN_OR_RETURN(tokenizer_class, root.StringOr("tokenizer_class", ""));
  if (tokenizer_class.ends_with("Fast")) tokenizer_class.resize(tokenizer_class.size() - 4);
  THRESHER_ASSIGN_OR_RETURN(model_max_length, ParseMaxLength(root));
  THRESHER_ASSIGN_OR_RETURN(do_lower_case, root.BoolOr("do_lower_case", true));
  if (root.Has("strip_accents")) {
    THRESHER_ASSIGN_OR_RETURN(strip_accents, root.BoolOr("strip_accents", true));
  }
  THRESHER_ASSIGN_OR_RETURN(tokenize_chinese_chars, root.BoolOr("tokenize_chinese_chars", true));
  THRESHER_ASSIGN_OR_RETURN(add_prefix_space, root.BoolOr("add_prefix_space", false));
  THRESHER_ASSIGN_OR_RETURN(trim_offsets, root.BoolOr("trim_offsets", true));
  for (const auto& [key, flag] :
       {std::pair("add_bos_token", &add_bos_token), {"add_eos_token", &add_eos_token}}) {
    if (!root.Has(key)) continue;
    THRESHER_ASSIGN_OR_RETURN(*flag, root.BoolOr(key, false));
  }
  if (root.Has("added_tokens_decoder")) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode decoder, root.Get("added_tokens_decoder"));
    THRESHER_RETURN_IF_ERROR(decoder.ExpectObject());
    for (const auto& [key, value] : decoder.value().items()) {
      const JsonNode node = decoder.Child(value, key);
      THRESHER_ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(node));
      const char* end = key.data() + key.size();
      if (const auto [rest, error] = std::from_chars(key.data(), end, token.id);
          rest != end || error != std::errc() || token.id < 0) {
        return node.Error("'{}' is not a token id", key);
      }
      added_tokens.push_back(std::move(token));
    }
  }
  return MergeSpecialTokens(root, *this);
}

absl::Status TokenizerConfig::MergeSpecialTokensMap(std::string_view contents,
                                                    std::string_view name) {
  THRESHER_ASSIGN_OR_RETURN(const json document, ParseJson(contents, name));
  return MergeSpecialTokens(JsonNode(&document, std::string(name)), *this);
}

absl::Status TokenizerConfig::MergeAddedTokens(std::string_view contents, std::string_view name) {
  THRESHER_ASSIGN_OR_RETURN(const json document, ParseJson(contents, name));
  const JsonNode root(&document, std::string(name));
  THRESHER_RETURN_IF_ERROR(root.ExpectObject());
  for (const auto& [content, value] : document.items()) {
    AddedToken token;
    token.content = content;
    token.normalized = true;
    THRESHER_ASSIGN_OR_RETURN(const int64_t id, root.Child(value, content).Integer(0, kMostTokens));
    token.id = static_cast<int32_t>(id);
    added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

}  // namespace thresher::text
