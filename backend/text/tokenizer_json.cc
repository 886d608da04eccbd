#include "backend/text/tokenizer_json.h"

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "backend/tensor/status.h"
#include "backend/text/bpe.h"
#include "backend/text/json_components.h"
#include "backend/text/json_node.h"
#include "backend/text/wordpiece.h"

namespace thresher::text {
namespace {

using nlohmann::json;

constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();

// The model's vocabulary, with room for the added tokens.
absl::StatusOr<std::unique_ptr<Vocabulary>> ParseVocabulary(const JsonNode& model,
                                                            size_t added_tokens) {
  THRESHER_ASSIGN_OR_RETURN(const JsonNode vocab, model.Get("vocab"));
  THRESHER_RETURN_IF_ERROR(vocab.ExpectObject());
  if (vocab.value().empty()) return vocab.Error("the vocabulary is empty");
  auto vocabulary = std::make_unique<Vocabulary>(vocab.value().size() + added_tokens);
  for (const auto& [token, id] : vocab.value().items()) {
    if (!id.is_number_integer()) {
      return vocab.Error("the id of token '{:.100}' is {}, expected a whole number", token,
                         id.type_name());
    }
    if (auto status = vocabulary->Add(token, id.get<int64_t>()); !status.ok()) {
      return Annotate(status, vocab.Where());
    }
  }
  return vocabulary;
}

// Puts the added tokens into the vocabulary too.
absl::StatusOr<std::vector<AddedToken>> ParseAddedTokens(const JsonNode& list,
                                                         Vocabulary& vocabulary) {
  THRESHER_RETURN_IF_ERROR(list.ExpectArray());
  std::vector<AddedToken> tokens;
  for (size_t i = 0; i < list.value().size(); ++i) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode node, list.At(i));
    THRESHER_ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(node));
    THRESHER_ASSIGN_OR_RETURN(const JsonNode id_node, node.Get("id"));
    THRESHER_ASSIGN_OR_RETURN(const int64_t id, id_node.Integer(0, kMostTokens));
    token.id = static_cast<int32_t>(id);
    // It may be in the model's vocabulary too, with the same id.
    if (vocabulary.Find(token.content) != token.id) {
      if (auto status = vocabulary.Add(token.content, id); !status.ok()) {
        return Annotate(status, node.Where());
      }
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

absl::StatusOr<std::unique_ptr<TokenModel>> ParseWordPiece(const JsonNode& node,
                                                           const Vocabulary& vocabulary) {
  WordPieceOptions options;
  THRESHER_ASSIGN_OR_RETURN(options.unknown_token, node.StringOr("unk_token", "[UNK]"));
  THRESHER_ASSIGN_OR_RETURN(options.continuing_prefix,
                            node.StringOr("continuing_subword_prefix", "##"));
  if (node.Has("max_input_chars_per_word")) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode limit, node.Get("max_input_chars_per_word"));
    // The work for a word is at worst the square of its length.
    THRESHER_ASSIGN_OR_RETURN(const int64_t characters, limit.Integer(0, 10000));
    options.max_characters_per_word = static_cast<int32_t>(characters);
  }
  auto model = WordPiece::Create(vocabulary, options);
  if (!model.ok()) return Annotate(model.status(), node.Where());
  return std::make_unique<WordPiece>(*std::move(model));
}

// "a b" or ["a", "b"].
absl::StatusOr<std::pair<std::string, std::string>> ParseMerge(const JsonNode& node) {
  if (node.value().is_array()) {
    if (node.value().size() != 2)
      return node.Error("has {} tokens, expected 2", node.value().size());
    THRESHER_ASSIGN_OR_RETURN(const JsonNode left, node.At(0));
    THRESHER_ASSIGN_OR_RETURN(const JsonNode right, node.At(1));
    std::pair<std::string, std::string> merge;
    THRESHER_ASSIGN_OR_RETURN(merge.first, left.String());
    THRESHER_ASSIGN_OR_RETURN(merge.second, right.String());
    return merge;
  }
  THRESHER_ASSIGN_OR_RETURN(const std::string text, node.String());
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    return node.Error("'{:.100}' is not two tokens with a space between", text);
  }
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

absl::StatusOr<std::unique_ptr<TokenModel>> ParseBpe(const JsonNode& node,
                                                     const Vocabulary& vocabulary, BpeUnit unit) {
  BpeOptions options = {.unit = unit};
  THRESHER_ASSIGN_OR_RETURN(options.unknown_token, node.StringOr("unk_token", ""));
  THRESHER_ASSIGN_OR_RETURN(options.fuse_unknown, node.BoolOr("fuse_unk", false));
  THRESHER_ASSIGN_OR_RETURN(options.byte_fallback, node.BoolOr("byte_fallback", false));
  THRESHER_ASSIGN_OR_RETURN(options.ignore_merges, node.BoolOr("ignore_merges", false));
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    THRESHER_ASSIGN_OR_RETURN(const std::string text, node.StringOr(affix, ""));
    if (!text.empty()) return Unsupported(node, affix);
  }
  if (node.Has("dropout") && node.value()["dropout"] != 0) return Unsupported(node, "dropout");
  THRESHER_ASSIGN_OR_RETURN(const JsonNode list, node.Get("merges"));
  THRESHER_RETURN_IF_ERROR(list.ExpectArray());
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(list.value().size());
  for (size_t i = 0; i < list.value().size(); ++i) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode merge_node, list.At(i));
    THRESHER_ASSIGN_OR_RETURN(auto merge, ParseMerge(merge_node));
    merges.push_back(std::move(merge));
  }
  auto model = Bpe::Create(vocabulary, merges, options);
  if (!model.ok()) return Annotate(model.status(), list.Where());
  return std::make_unique<Bpe>(*std::move(model));
}

// Old files do not say the type: then it shows in what else is there.
absl::StatusOr<std::string> ModelType(const JsonNode& model) {
  THRESHER_RETURN_IF_ERROR(model.ExpectObject());
  if (model.Has("type")) return ComponentType(model);
  if (model.Has("merges")) return "BPE";
  if (model.Has("max_input_chars_per_word")) return "WordPiece";
  return model.Error("'type' is missing");
}

}  // namespace

absl::StatusOr<Pipeline> ParseTokenizerJson(std::string_view contents, std::string_view name) {
  THRESHER_ASSIGN_OR_RETURN(const json document, ParseJson(contents, name));
  const JsonNode root(&document, std::string(name));
  THRESHER_ASSIGN_OR_RETURN(const JsonNode model, root.Get("model"));
  THRESHER_ASSIGN_OR_RETURN(const std::string model_type, ModelType(model));
  if (model_type != "WordPiece" && model_type != "BPE") {
    return Unsupported(model, fmt::format("model '{}'", model_type));
  }
  Pipeline pipeline;
  if (root.Has("pre_tokenizer")) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode node, root.Get("pre_tokenizer"));
    THRESHER_ASSIGN_OR_RETURN(PreTokenizing parsed, ParsePreTokenizer(node));
    pipeline.pre_tokenizer = std::move(parsed.splitter);
    pipeline.byte_level = parsed.byte_level;
    pipeline.metaspace = parsed.metaspace;
  }
  if (root.Has("normalizer")) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode node, root.Get("normalizer"));
    THRESHER_ASSIGN_OR_RETURN(pipeline.normalizer, ParseNormalizer(node));
    // Metaspace makes three bytes of a space, and puts three before a word.
    const int64_t growth = pipeline.normalizer->growth() * (pipeline.metaspace ? 4 : 1);
    if (growth > kMostGrowth) {
      return node.Error("may make a text {} times as long, more than {} times", growth,
                        kMostGrowth);
    }
  }
  if (pipeline.byte_level && model_type == "WordPiece") {
    return Unsupported(model, "a ByteLevel pre-tokenizer before WordPiece");
  }
  const size_t added_tokens = root.Has("added_tokens") ? document["added_tokens"].size() : 0;
  THRESHER_ASSIGN_OR_RETURN(pipeline.vocabulary, ParseVocabulary(model, added_tokens));
  // The model comes first: it does not know the added tokens.
  if (model_type == "WordPiece") {
    THRESHER_ASSIGN_OR_RETURN(pipeline.model, ParseWordPiece(model, *pipeline.vocabulary));
  } else {
    const BpeUnit unit = pipeline.byte_level ? BpeUnit::kByte : BpeUnit::kCharacter;
    THRESHER_ASSIGN_OR_RETURN(pipeline.model, ParseBpe(model, *pipeline.vocabulary, unit));
  }
  if (root.Has("added_tokens")) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode node, root.Get("added_tokens"));
    THRESHER_ASSIGN_OR_RETURN(std::vector<AddedToken> tokens,
                              ParseAddedTokens(node, *pipeline.vocabulary));
    pipeline.added_tokens = AddedTokens(std::move(tokens), pipeline.normalizer.get());
  }
  if (root.Has("post_processor")) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode node, root.Get("post_processor"));
    THRESHER_ASSIGN_OR_RETURN(pipeline.post_processor,
                              ParsePostProcessor(node, *pipeline.vocabulary));
  }
  pipeline.decoder = Decoder({JoinStep()});
  if (root.Has("decoder")) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode node, root.Get("decoder"));
    THRESHER_ASSIGN_OR_RETURN(pipeline.decoder, ParseDecoder(node));
  }
  if (root.Has("truncation")) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode node, root.Get("truncation"));
    THRESHER_ASSIGN_OR_RETURN(const JsonNode length, node.Get("max_length"));
    THRESHER_ASSIGN_OR_RETURN(const int64_t tokens, length.Integer(0, kMostTokens));
    pipeline.model_max_length = static_cast<int32_t>(tokens);
  }
  return pipeline;
}

}  // namespace thresher::text
