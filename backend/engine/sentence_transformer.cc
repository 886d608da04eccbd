#include "backend/engine/sentence_transformer.h"

#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "backend/model/files.h"
#include "backend/model/json_fields.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int32_t kMaxTokens = 1'048'576;

absl::Status ReadPooling(const std::string& path, SentenceTransformer* sentence) {
  THRESHER_ASSIGN_OR_RETURN(const nlohmann::json json, ReadJson(path));
  THRESHER_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(json, path));
  THRESHER_ASSIGN_OR_RETURN(sentence->word_embedding_dimension,
                            fields.Integer("word_embedding_dimension", 1, 1 << 20, 0));
  for (const std::string_view mode :
       {"pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"}) {
    THRESHER_ASSIGN_OR_RETURN(const bool set, fields.Boolean(mode, false));
    if (set) {
      return Unimplemented("{}: field '{}': only pooling by cls or mean is served", path, mode);
    }
  }
  THRESHER_ASSIGN_OR_RETURN(const bool cls, fields.Boolean("pooling_mode_cls_token", false));
  THRESHER_ASSIGN_OR_RETURN(const bool mean, fields.Boolean("pooling_mode_mean_tokens", false));
  if (cls && mean) {
    return Unimplemented("{}: pooling by both cls and mean is not served", path);
  }
  if (!cls && !mean) {
    return InvalidArgument(
        "{}: one of 'pooling_mode_cls_token' and 'pooling_mode_mean_tokens' must be true", path);
  }
  sentence->pooling = cls ? Pooling::kCls : Pooling::kMean;
  return absl::OkStatus();
}

/// A module's directory: `directory` itself or a plain name in it.
absl::StatusOr<std::string> ModuleDirectory(const JsonFields& module,
                                            const std::string& directory) {
  THRESHER_ASSIGN_OR_RETURN(std::string path, module.String("path", ""));
  while (!path.empty() && path.back() == '/') path.pop_back();
  if (path.empty()) return directory;
  if (!IsPlainName(path)) {
    return InvalidArgument("{}: field 'path' is '{}', not a directory of the model's own",
                           module.name(), Shorten(path));
  }
  return directory + "/" + path;
}

absl::Status ReadModules(const std::string& directory, SentenceTransformer* sentence) {
  const std::string path = directory + "/modules.json";
  THRESHER_ASSIGN_OR_RETURN(const nlohmann::json modules, ReadJson(path));
  if (!modules.is_array() || modules.empty()) {
    return InvalidArgument("{}: not a list of modules", path);
  }
  constexpr std::array<std::string_view, 3> kOrder = {"Transformer", "Pooling", "Normalize"};
  for (size_t i = 0; i < modules.size(); ++i) {
    const std::string where = fmt::format("{}: module {}", path, i);
    THRESHER_ASSIGN_OR_RETURN(const JsonFields module, JsonFields::Of(modules[i], where));
    THRESHER_ASSIGN_OR_RETURN(const std::string type, module.String("type"));
    const std::string_view kind = std::string_view(type).substr(type.rfind('.') + 1);
    if (i >= kOrder.size() || kind != kOrder[i]) {
      return Unimplemented("{}: '{}' is not served there; what is served is {}", where,
                           Shorten(type), "Transformer, Pooling and perhaps Normalize");
    }
    THRESHER_ASSIGN_OR_RETURN(const std::string module_directory,
                              ModuleDirectory(module, directory));
    if (i == 0) sentence->model_directory = module_directory;
    if (i == 1) {
      THRESHER_RETURN_IF_ERROR(ReadPooling(module_directory + "/config.json", sentence));
    }
    if (i == 2) sentence->normalize = true;
  }
  if (modules.size() < 2) {
    return Unimplemented("{}: without a Pooling module, there is no sentence embedding", path);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SentenceTransformer> ReadSentenceTransformer(const std::string& directory) {
  SentenceTransformer sentence;
  sentence.model_directory = directory;
  if (!IsFile(directory + "/modules.json")) return sentence;
  THRESHER_RETURN_IF_ERROR(ReadModules(directory, &sentence));
  const std::string limits = sentence.model_directory + "/sentence_bert_config.json";
  if (IsFile(limits)) {
    THRESHER_ASSIGN_OR_RETURN(const nlohmann::json json, ReadJson(limits));
    THRESHER_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(json, limits));
    THRESHER_ASSIGN_OR_RETURN(sentence.max_tokens,
                              fields.Integer("max_seq_length", 1, kMaxTokens, 0));
    THRESHER_ASSIGN_OR_RETURN(sentence.lower_case, fields.Boolean("do_lower_case", false));
  }
  return sentence;
}

}  // namespace thresher
