#include "backend/text/vocabulary_files.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "backend/tensor/status.h"
#include "backend/text/bpe.h"
#include "backend/text/json_node.h"
#include "backend/text/special_tokens.h"
#include "backend/text/unicode.h"
#include "backend/text/wordpiece.h"

namespace thresher::text {
namespace {

using nlohmann::json;

// Calls visit(line, number from 1) for each line, without its end; the last may lack one.
template <typename Visit>
absl::Status ForEachLine(std::string_view contents, std::string_view name, Visit visit) {
  if (const auto position = FindInvalidUtf8(contents)) {
    const auto line = std::count(contents.begin(), contents.begin() + *position, '\n') + 1;
    return InvalidArgument("{}: line {}: not valid UTF-8 (byte {} of the file)", name, line,
                           *position);
  }
  for (int64_t number = 1; !contents.empty(); ++number) {
    const size_t end = std::min(contents.find('\n'), contents.size());
    std::string_view line = contents.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (auto status = visit(line, number); !status.ok()) {
      return Annotate(status, fmt::format("{}: line {}", name, number));
    }
    contents.remove_prefix(std::min(end + 1, contents.size()));
  }
  return absl::OkStatus();
}

constexpr std::array<DefaultToken, 5> kBertTokens = {{{"unk_token", "[UNK]"},
                                                      {"cls_token", "[CLS]"},
                                                      {"sep_token", "[SEP]"},
                                                      {"pad_token", "[PAD]"},
                                                      {"mask_token", "[MASK]"}}};
constexpr std::array<DefaultToken, 7> kRobertaTokens = {{{"bos_token", "<s>"},
                                                         {"eos_token", "</s>"},
                                                         {"unk_token", "<unk>"},
                                                         {"cls_token", "<s>"},
                                                         {"sep_token", "</s>"},
                                                         {"pad_token", "<pad>"},
                                                         {"mask_token", "<mask>", true}}};
constexpr std::array<DefaultToken, 3> kGpt2Tokens = {{{"bos_token", "<|endoftext|>"},
                                                      {"eos_token", "<|endoftext|>"},
                                                      {"unk_token", "<|endoftext|>"}}};

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseMerges(
    std::string_view contents, std::string_view name) {
  std::vector<std::pair<std::string, std::string>> merges;
  while (contents.ends_with('\n') || contents.ends_with('\r')) contents.remove_suffix(1);
  THRESHER_RETURN_IF_ERROR(
      ForEachLine(contents, name, [&](std::string_view line, int64_t) -> absl::Status {
        if (line.starts_with("#version")) return absl::OkStatus();
        const size_t space = line.find(' ');
        if (space == std::string_view::npos || line.find(' ', space + 1) != line.npos) {
          return InvalidArgument("'{:.100}' is not two tokens with a space between", line);
        }
        merges.emplace_back(line.substr(0, space), line.substr(space + 1));
        return absl::OkStatus();
      }));
  return merges;
}

}  // namespace

absl::StatusOr<Pipeline> ParseVocabTxt(std::string_view contents, std::string_view name,
                                       const TokenizerConfig& given) {
  static constexpr std::array<std::string_view, 7> kClasses = {
      "BertTokenizer",     "DistilBertTokenizer", "ElectraTokenizer",    "MobileBertTokenizer",
      "ConvBertTokenizer", "LayoutLMTokenizer",   "SqueezeBertTokenizer"};
  THRESHER_RETURN_IF_ERROR(CheckClass(given, name, kClasses));
  const TokenizerConfig config = WithDefaults(given, kBertTokens);
  Pipeline pipeline;
  const size_t lines = std::count(contents.begin(), contents.end(), '\n') + 1;
  pipeline.vocabulary = std::make_unique<Vocabulary>(lines + config.added_tokens.size());
  Vocabulary& vocabulary = *pipeline.vocabulary;
  THRESHER_RETURN_IF_ERROR(ForEachLine(contents, name, [&](std::string_view line, int64_t number) {
    return vocabulary.Add(std::string(line), number - 1);
  }));
  if (vocabulary.size() == 0) return InvalidArgument("{}: the vocabulary is empty", name);
  pipeline.normalizer =
      MakeBertNormalizer({.clean_text = true,
                          .handle_chinese_chars = config.tokenize_chinese_chars,
                          .strip_accents = config.strip_accents.value_or(config.do_lower_case),
                          .lowercase = config.do_lower_case});
  pipeline.pre_tokenizer = MakeBertPreTokenizer();
  auto model = WordPiece::Create(vocabulary,
                                 {.unknown_token = config.special_tokens.at("unk_token").content});
  if (!model.ok()) return Annotate(model.status(), name);
  pipeline.model = std::make_unique<WordPiece>(*std::move(model));
  THRESHER_ASSIGN_OR_RETURN(const int32_t cls, FindSpecial(config, "cls_token", vocabulary, name));
  THRESHER_ASSIGN_OR_RETURN(const int32_t sep, FindSpecial(config, "sep_token", vocabulary, name));
  pipeline.post_processor = BertPostProcessor(cls, sep);
  pipeline.decoder = Decoder({WordPieceStep("##", /*cleanup=*/true)});
  if (auto status = AddTokens(config, pipeline); !status.ok()) return Annotate(status, name);
  return pipeline;
}

absl::StatusOr<Pipeline> ParseVocabAndMerges(std::string_view vocab, std::string_view vocab_name,
                                             std::string_view merges, std::string_view merges_name,
                                             const TokenizerConfig& given) {
  static constexpr std::array<std::string_view, 4> kClasses = {
      "RobertaTokenizer", "GPT2Tokenizer", "BartTokenizer", "LongformerTokenizer"};
  THRESHER_RETURN_IF_ERROR(CheckClass(given, vocab_name, kClasses));
  THRESHER_ASSIGN_OR_RETURN(const json document, ParseJson(vocab, vocab_name));
  const JsonNode root(&document, std::string(vocab_name));
  THRESHER_RETURN_IF_ERROR(root.ExpectObject());
  Pipeline pipeline;
  pipeline.vocabulary = std::make_unique<Vocabulary>(document.size() + given.added_tokens.size());
  Vocabulary& vocabulary = *pipeline.vocabulary;
  for (const auto& [token, id] : document.items()) {
    if (!id.is_number_integer()) {
      return root.Error("the id of token '{:.100}' is {}, expected a whole number", token,
                        id.type_name());
    }
    if (auto status = vocabulary.Add(token, id.get<int64_t>()); !status.ok()) {
      return Annotate(status, vocab_name);
    }
  }
  if (vocabulary.size() == 0) return root.Error("the vocabulary is empty");
  // Only GPT-2's, of which OPT's is one, may or may not have a BOS.
  const bool is_roberta =
      given.tokenizer_class.empty() || given.tokenizer_class == "PreTrainedTokenizer"
          ? vocabulary.Find("</s>") >= 0 && !given.add_bos_token
          : given.tokenizer_class != "GPT2Tokenizer";
  const TokenizerConfig config =
      is_roberta ? WithDefaults(given, kRobertaTokens) : WithDefaults(given, kGpt2Tokens);
  pipeline.byte_level = {.add_prefix_space = config.add_prefix_space, .use_regex = true};
  THRESHER_ASSIGN_OR_RETURN(const auto pairs, ParseMerges(merges, merges_name));
  auto model = Bpe::Create(vocabulary, pairs, {});
  if (!model.ok()) return Annotate(model.status(), merges_name);
  pipeline.model = std::make_unique<Bpe>(*std::move(model));
  if (is_roberta) {
    THRESHER_ASSIGN_OR_RETURN(const int32_t cls,
                              FindSpecial(config, "cls_token", vocabulary, vocab_name));
    THRESHER_ASSIGN_OR_RETURN(const int32_t sep,
                              FindSpecial(config, "sep_token", vocabulary, vocab_name));
    pipeline.post_processor = RobertaPostProcessor(cls, sep, config.trim_offsets);
  } else if (config.add_bos_token.value_or(false)) {
    THRESHER_ASSIGN_OR_RETURN(const int32_t bos,
                              FindSpecial(config, "bos_token", vocabulary, vocab_name));
    pipeline.post_processor = AroundEachText(bos, std::nullopt);
  }
  pipeline.decoder = Decoder({ByteLevelStep()});
  if (auto status = AddTokens(config, pipeline); !status.ok()) return Annotate(status, vocab_name);
  return pipeline;
}

}  // namespace thresher::text
