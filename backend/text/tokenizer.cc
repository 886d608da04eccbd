#include "backend/text/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "backend/tensor/status.h"
#include "backend/text/pipeline.h"
#include "backend/text/sentencepiece.h"
#include "backend/text/tokenizer_config.h"
#include "backend/text/tokenizer_json.h"
#include "backend/text/vocabulary_files.h"

namespace thresher {
namespace {

namespace fs = std::filesystem;

// The largest vocabularies of the field are half of this.
constexpr uintmax_t kLargestFile = uintmax_t{64} << 20;

struct File {
  std::string path;
  std::string contents;
};

// Nothing if there is no such file.
absl::StatusOr<std::optional<File>> ReadIfPresent(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  if (!fs::is_regular_file(path, error)) {
    return InvalidArgument("{}: not a regular file", path.string());
  }
  const uintmax_t size = fs::file_size(path, error);
  if (error) return InvalidArgument("{}: {}", path.string(), error.message());
  if (size > kLargestFile) {
    return InvalidArgument("{}: {} bytes, more than a tokenizer file can have ({})", path.string(),
                           size, kLargestFile);
  }
  File file = {path.string(), std::string(size, '\0')};
  std::ifstream stream(path, std::ios::binary);
  if (!stream.read(file.contents.data(), static_cast<std::streamsize>(size))) {
    return InvalidArgument("{}: can't be read", path.string());
  }
  return file;
}

using Merge = absl::Status (text::TokenizerConfig::*)(std::string_view, std::string_view);

absl::Status MergeIfPresent(const fs::path& path, Merge merge, text::TokenizerConfig& config) {
  THRESHER_ASSIGN_OR_RETURN(const std::optional<File> file, ReadIfPresent(path));
  return file ? (config.*merge)(file->contents, file->path) : absl::OkStatus();
}

absl::StatusOr<text::Pipeline> LoadPipeline(const fs::path& directory) {
  using text::TokenizerConfig;
  TokenizerConfig config;
  THRESHER_RETURN_IF_ERROR(MergeIfPresent(directory / "special_tokens_map.json",
                                          &TokenizerConfig::MergeSpecialTokensMap, config));
  THRESHER_RETURN_IF_ERROR(MergeIfPresent(directory / "tokenizer_config.json",
                                          &TokenizerConfig::MergeTokenizerConfig, config));
  text::Pipeline pipeline;
  THRESHER_ASSIGN_OR_RETURN(const std::optional<File> tokenizer_json,
                            ReadIfPresent(directory / "tokenizer.json"));
  if (tokenizer_json) {
    THRESHER_ASSIGN_OR_RETURN(
        pipeline, text::ParseTokenizerJson(tokenizer_json->contents, tokenizer_json->path));
  } else {
    THRESHER_RETURN_IF_ERROR(MergeIfPresent(directory / "added_tokens.json",
                                            &TokenizerConfig::MergeAddedTokens, config));
    THRESHER_ASSIGN_OR_RETURN(const std::optional<File> tokenizer_model,
                              ReadIfPresent(directory / "tokenizer.model"));
    THRESHER_ASSIGN_OR_RETURN(const std::optional<File> vocab_txt,
                              ReadIfPresent(directory / "vocab.txt"));
    THRESHER_ASSIGN_OR_RETURN(const std::optional<File> vocab_json,
                              ReadIfPresent(directory / "vocab.json"));
    THRESHER_ASSIGN_OR_RETURN(const std::optional<File> merges_txt,
                              ReadIfPresent(directory / "merges.txt"));
    if (tokenizer_model) {
      THRESHER_ASSIGN_OR_RETURN(pipeline, text::ParseSentencePiece(tokenizer_model->contents,
                                                                   tokenizer_model->path, config));
    } else if (vocab_txt) {
      THRESHER_ASSIGN_OR_RETURN(pipeline,
                                text::ParseVocabTxt(vocab_txt->contents, vocab_txt->path, config));
    } else if (vocab_json && merges_txt) {
      THRESHER_ASSIGN_OR_RETURN(
          pipeline, text::ParseVocabAndMerges(vocab_json->contents, vocab_json->path,
                                              merges_txt->contents, merges_txt->path, config));
    } else {
      return NotFound(
          "{}: no tokenizer: neither tokenizer.json, nor tokenizer.model, nor vocab.txt, nor "
          "vocab.json with merges.txt",
          directory.string());
    }
  }
  if (config.model_max_length > 0) pipeline.model_max_length = config.model_max_length;
  return pipeline;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& directory) {
  THRESHER_ASSIGN_OR_RETURN(text::Pipeline pipeline, LoadPipeline(directory));
  return text::MakeTokenizer(std::move(pipeline));
}

}  // namespace thresher
