#include "backend/text/json_components.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "backend/text/unicode.h"

namespace thresher::text {
namespace {

// Longer patterns would make the work for a text large; real ones have a few characters.
constexpr size_t kLongestPattern = 1024;
constexpr int64_t kMostTypes = std::numeric_limits<int32_t>::max();

// {"String": "..."}
absl::StatusOr<std::string> ParsePattern(const JsonNode& node) {
  THRESHER_ASSIGN_OR_RETURN(const JsonNode pattern_node, node.Get("pattern"));
  if (!pattern_node.Has("String")) {
    return Unsupported(pattern_node, "a pattern other than {\"String\": ...}");
  }
  THRESHER_ASSIGN_OR_RETURN(const JsonNode string_node, pattern_node.Get("String"));
  THRESHER_ASSIGN_OR_RETURN(std::string pattern, string_node.String());
  if (pattern.empty() || pattern.size() > kLongestPattern) {
    return string_node.Error("the pattern has {} bytes, expected 1 to {}", pattern.size(),
                             kLongestPattern);
  }
  return pattern;
}

struct Replacement {
  std::string pattern;
  std::string content;
};
absl::StatusOr<Replacement> ParseReplace(const JsonNode& node) {
  Replacement result;
  THRESHER_ASSIGN_OR_RETURN(result.pattern, ParsePattern(node));
  THRESHER_ASSIGN_OR_RETURN(const JsonNode content_node, node.Get("content"));
  THRESHER_ASSIGN_OR_RETURN(result.content, content_node.String());
  if (result.content.size() > kLongestPattern) {
    return content_node.Error("the content has {} bytes, expected at most {}",
                              result.content.size(), kLongestPattern);
  }
  return result;
}

// A string of one character.
absl::StatusOr<char32_t> ParseCharacter(const JsonNode& node, const char* key,
                                        std::string_view otherwise) {
  THRESHER_ASSIGN_OR_RETURN(const std::string text, node.StringOr(key, otherwise));
  size_t end = 0;
  const char32_t character = text.empty() ? 0 : NextCharacter(text, end);
  if (text.empty() || end != text.size()) {
    return node.Error("{} is '{:.100}', expected one character", key, text);
  }
  return character;
}

// Files before prepend_scheme have add_prefix_space.
absl::StatusOr<MetaspaceOptions> ParseMetaspace(const JsonNode& node) {
  using Prepend = MetaspaceOptions::Prepend;
  MetaspaceOptions options;
  THRESHER_ASSIGN_OR_RETURN(options.replacement, ParseCharacter(node, "replacement", "\u2581"));
  THRESHER_ASSIGN_OR_RETURN(options.split, node.BoolOr("split", true));
  THRESHER_ASSIGN_OR_RETURN(const bool add_prefix, node.BoolOr("add_prefix_space", true));
  THRESHER_ASSIGN_OR_RETURN(const std::string scheme,
                            node.StringOr("prepend_scheme", add_prefix ? "always" : "never"));
  if (scheme == "always") {
    options.prepend = Prepend::kAlways;
  } else if (scheme == "first") {
    options.prepend = Prepend::kFirst;
  } else if (scheme == "never") {
    options.prepend = Prepend::kNever;
  } else {
    return node.Error("prepend_scheme '{}' is unknown", scheme);
  }
  return options;
}

absl::StatusOr<DelimiterBehavior> ParseBehavior(const JsonNode& node) {
  static constexpr std::pair<std::string_view, DelimiterBehavior> kBehaviors[] = {
      {"Isolated", DelimiterBehavior::kIsolated},
      {"Removed", DelimiterBehavior::kRemoved},
      {"MergedWithPrevious", DelimiterBehavior::kMergedWithPrevious},
      {"MergedWithNext", DelimiterBehavior::kMergedWithNext},
      {"Contiguous", DelimiterBehavior::kContiguous}};
  const absl::StatusOr<std::string> name = node.StringOr("behavior", "Isolated");
  if (!name.ok()) return name.status();
  for (const auto& [known, behavior] : kBehaviors) {
    if (*name == known) return behavior;
  }
  return node.Error("behavior '{}' is unknown", *name);
}

// Cuts at a string, or by one of the regular expressions that are known.
absl::StatusOr<std::unique_ptr<PreTokenizer>> ParseSplit(const JsonNode& node) {
  THRESHER_ASSIGN_OR_RETURN(const DelimiterBehavior behavior, ParseBehavior(node));
  THRESHER_ASSIGN_OR_RETURN(const bool invert, node.BoolOr("invert", false));
  if (invert) return Unsupported(node, "invert");
  THRESHER_ASSIGN_OR_RETURN(const JsonNode pattern_node, node.Get("pattern"));
  if (!pattern_node.Has("Regex")) {
    THRESHER_ASSIGN_OR_RETURN(const std::string pattern, ParsePattern(node));
    return MakeSplit(pattern, behavior);
  }
  THRESHER_ASSIGN_OR_RETURN(const JsonNode regex_node, pattern_node.Get("Regex"));
  THRESHER_ASSIGN_OR_RETURN(const std::string expression, regex_node.String());
  auto splitter = MakeRegexSplit(expression);
  // Its matches are the whole text, and each is a word of its own.
  if (splitter == nullptr || behavior != DelimiterBehavior::kIsolated) {
    return Unsupported(regex_node, fmt::format("the regular expression '{:.200}'", expression));
  }
  return splitter;
}

// An id in the vocabulary.
absl::StatusOr<int32_t> ParseId(const JsonNode& node, const Vocabulary& vocabulary) {
  THRESHER_ASSIGN_OR_RETURN(const int64_t id, node.Integer(0, std::numeric_limits<int32_t>::max()));
  if (!vocabulary.Has(static_cast<int32_t>(id))) {
    return node.Error("id {} is not in the vocabulary", id);
  }
  return static_cast<int32_t>(id);
}

// ["[SEP]", 102]
absl::StatusOr<int32_t> ParseNamedId(const JsonNode& node, const char* key,
                                     const Vocabulary& vocabulary) {
  THRESHER_ASSIGN_OR_RETURN(const JsonNode pair, node.Get(key));
  THRESHER_ASSIGN_OR_RETURN(const JsonNode id, pair.At(1));
  return ParseId(id, vocabulary);
}

absl::StatusOr<std::vector<int32_t>> ParseSpecialToken(const JsonNode& processor,
                                                       const std::string& name,
                                                       const Vocabulary& vocabulary) {
  THRESHER_ASSIGN_OR_RETURN(const JsonNode all, processor.Get("special_tokens"));
  THRESHER_ASSIGN_OR_RETURN(const JsonNode token, all.Get(name.c_str()));
  THRESHER_ASSIGN_OR_RETURN(const JsonNode ids, token.Get("ids"));
  THRESHER_RETURN_IF_ERROR(ids.ExpectArray());
  std::vector<int32_t> result;
  for (size_t i = 0; i < ids.value().size(); ++i) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode id_node, ids.At(i));
    THRESHER_ASSIGN_OR_RETURN(const int32_t id, ParseId(id_node, vocabulary));
    result.push_back(id);
  }
  return result;
}

absl::StatusOr<Template> ParseTemplate(const JsonNode& processor, const char* key, int sequences,
                                       const Vocabulary& vocabulary) {
  THRESHER_ASSIGN_OR_RETURN(const JsonNode parts, processor.Get(key));
  THRESHER_RETURN_IF_ERROR(parts.ExpectArray());
  Template result;
  int count[2] = {0, 0};
  for (size_t i = 0; i < parts.value().size(); ++i) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode node, parts.At(i));
    TemplatePart part;
    const bool is_sequence = node.Has("Sequence");
    THRESHER_ASSIGN_OR_RETURN(const JsonNode body,
                              node.Get(is_sequence ? "Sequence" : "SpecialToken"));
    THRESHER_ASSIGN_OR_RETURN(const JsonNode id_node, body.Get("id"));
    THRESHER_ASSIGN_OR_RETURN(const std::string id, id_node.String());
    THRESHER_ASSIGN_OR_RETURN(const JsonNode type_node, body.Get("type_id"));
    THRESHER_ASSIGN_OR_RETURN(const int64_t type_id, type_node.Integer(0, kMostTypes));
    part.type_id = static_cast<int32_t>(type_id);
    if (is_sequence) {
      if (id != "A" && id != "B") return id_node.Error("'{}' is not a sequence: A or B", id);
      part.sequence = id == "A" ? 0 : 1;
      ++count[part.sequence];
    } else {
      THRESHER_ASSIGN_OR_RETURN(part.ids, ParseSpecialToken(processor, id, vocabulary));
    }
    result.push_back(std::move(part));
  }
  if (count[0] != 1 || count[1] != sequences - 1) {
    return parts.Error("the template must use {} once",
                       sequences == 1 ? "sequence A, and it alone," : "each of sequences A and B");
  }
  return result;
}

// Null for Fuse, which makes one token of all that come before the steps after it: `fused`. That
// token never is there as a whole, so only steps that can do without are possible.
absl::StatusOr<MakeDecodeStep> ParseDecodeStep(const JsonNode& node, bool fused) {
  THRESHER_ASSIGN_OR_RETURN(const std::string type, ComponentType(node));
  if (type == "Fuse") return MakeDecodeStep();
  if (type == "Strip") {
    StripOptions options = {.whole = fused};
    THRESHER_ASSIGN_OR_RETURN(options.content, ParseCharacter(node, "content", " "));
    for (const auto& [key, count] : {std::pair("start", &options.start), {"stop", &options.stop}}) {
      if (!node.Has(key)) continue;
      THRESHER_ASSIGN_OR_RETURN(const JsonNode count_node, node.Get(key));
      THRESHER_ASSIGN_OR_RETURN(const int64_t value, count_node.Integer(0, kLongestPattern));
      *count = static_cast<int>(value);
    }
    return StripStep(options);
  }
  if (fused) return Unsupported(node, fmt::format("decoder '{}' after Fuse", type));
  if (type == "WordPiece") {
    THRESHER_ASSIGN_OR_RETURN(const std::string prefix, node.StringOr("prefix", "##"));
    THRESHER_ASSIGN_OR_RETURN(const bool cleanup, node.BoolOr("cleanup", true));
    return WordPieceStep(prefix, cleanup);
  }
  if (type == "ByteLevel") return ByteLevelStep();
  if (type == "ByteFallback") return ByteFallbackStep();
  if (type == "Replace") {
    THRESHER_ASSIGN_OR_RETURN(const Replacement replacement, ParseReplace(node));
    return ReplaceStep(replacement.pattern, replacement.content);
  }
  if (type == "Metaspace") {
    THRESHER_ASSIGN_OR_RETURN(const MetaspaceOptions options, ParseMetaspace(node));
    return MetaspaceStep(options.replacement, options.prepend != MetaspaceOptions::Prepend::kNever);
  }
  return Unsupported(node, fmt::format("decoder '{}'", type));
}

// Visits the elements of a Sequence.
template <typename Visit>
absl::Status ForEachInSequence(const JsonNode& node, const char* key, Visit visit) {
  THRESHER_ASSIGN_OR_RETURN(const JsonNode list, node.Get(key));
  THRESHER_RETURN_IF_ERROR(list.ExpectArray());
  for (size_t i = 0; i < list.value().size(); ++i) {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode element, list.At(i));
    THRESHER_ASSIGN_OR_RETURN(const std::string type, ComponentType(element));
    // Keeps the depth of recursion out of the file's hands.
    if (type == "Sequence") return Unsupported(element, "a Sequence within a Sequence");
    THRESHER_RETURN_IF_ERROR(visit(element));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AddedToken> ParseAddedToken(const JsonNode& node) {
  AddedToken token;
  THRESHER_ASSIGN_OR_RETURN(const JsonNode content, node.Get("content"));
  THRESHER_ASSIGN_OR_RETURN(token.content, content.String());
  if (token.content.size() > kLongestPattern) {
    return content.Error("an added token of {} bytes, expected at most {}", token.content.size(),
                         kLongestPattern);
  }
  THRESHER_ASSIGN_OR_RETURN(token.special, node.BoolOr("special", false));
  THRESHER_ASSIGN_OR_RETURN(token.single_word, node.BoolOr("single_word", false));
  THRESHER_ASSIGN_OR_RETURN(token.lstrip, node.BoolOr("lstrip", false));
  THRESHER_ASSIGN_OR_RETURN(token.rstrip, node.BoolOr("rstrip", false));
  THRESHER_ASSIGN_OR_RETURN(token.normalized, node.BoolOr("normalized", !token.special));
  return token;
}

absl::StatusOr<std::string> ComponentType(const JsonNode& node) {
  THRESHER_ASSIGN_OR_RETURN(const JsonNode type, node.Get("type"));
  return type.String();
}

absl::Status Unsupported(const JsonNode& node, std::string_view what) {
  return Unimplemented("{}: {} is not supported", node.Where(), what);
}

absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const JsonNode& node) {
  THRESHER_ASSIGN_OR_RETURN(const std::string type, ComponentType(node));
  if (type == "BertNormalizer") {
    BertNormalizerOptions options;
    THRESHER_ASSIGN_OR_RETURN(options.clean_text, node.BoolOr("clean_text", true));
    THRESHER_ASSIGN_OR_RETURN(options.handle_chinese_chars,
                              node.BoolOr("handle_chinese_chars", true));
    THRESHER_ASSIGN_OR_RETURN(options.lowercase, node.BoolOr("lowercase", true));
    THRESHER_ASSIGN_OR_RETURN(options.strip_accents,
                              node.BoolOr("strip_accents", options.lowercase));
    return MakeBertNormalizer(options);
  }
  if (type == "Lowercase") return MakeLowercase();
  if (type == "NFC") return MakeNormalizationForm({.compose = true, .compatible = false});
  if (type == "NFD") return MakeNormalizationForm({.compose = false, .compatible = false});
  if (type == "NFKC") return MakeNormalizationForm({.compose = true, .compatible = true});
  if (type == "NFKD") return MakeNormalizationForm({.compose = false, .compatible = true});
  if (type == "StripAccents") return MakeStripAccents();
  if (type == "Strip") {
    THRESHER_ASSIGN_OR_RETURN(const bool left, node.BoolOr("strip_left", true));
    THRESHER_ASSIGN_OR_RETURN(const bool right, node.BoolOr("strip_right", true));
    return MakeStrip(left, right);
  }
  if (type == "Replace") {
    THRESHER_ASSIGN_OR_RETURN(const Replacement replacement, ParseReplace(node));
    return MakeReplace(replacement.pattern, replacement.content);
  }
  if (type == "Prepend") {
    THRESHER_ASSIGN_OR_RETURN(const JsonNode prefix_node, node.Get("prepend"));
    THRESHER_ASSIGN_OR_RETURN(const std::string prefix, prefix_node.String());
    return MakePrepend(prefix);
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> parts;
    THRESHER_RETURN_IF_ERROR(
        ForEachInSequence(node, "normalizers", [&](const JsonNode& element) -> absl::Status {
          THRESHER_ASSIGN_OR_RETURN(auto part, ParseNormalizer(element));
          parts.push_back(std::move(part));
          return absl::OkStatus();
        }));
    return MakeSequence(std::move(parts));
  }
  return Unsupported(node, fmt::format("normalizer '{}'", type));
}

absl::StatusOr<PreTokenizing> ParsePreTokenizer(const JsonNode& node) {
  THRESHER_ASSIGN_OR_RETURN(const std::string type, ComponentType(node));
  PreTokenizing result;
  if (type == "BertPreTokenizer") {
    result.splitter = MakeBertPreTokenizer();
  } else if (type == "Whitespace") {
    result.splitter = MakeWhitespace();
  } else if (type == "WhitespaceSplit") {
    result.splitter = MakeWhitespaceSplit();
  } else if (type == "Punctuation") {
    THRESHER_ASSIGN_OR_RETURN(const DelimiterBehavior behavior, ParseBehavior(node));
    result.splitter = MakePunctuation(behavior);
  } else if (type == "Digits") {
    THRESHER_ASSIGN_OR_RETURN(const bool individual, node.BoolOr("individual_digits", false));
    result.splitter = MakeDigits(individual);
  } else if (type == "Split") {
    THRESHER_ASSIGN_OR_RETURN(result.splitter, ParseSplit(node));
  } else if (type == "Metaspace") {
    THRESHER_ASSIGN_OR_RETURN(result.metaspace, ParseMetaspace(node));
  } else if (type == "ByteLevel") {
    ByteLevelOptions options;
    THRESHER_ASSIGN_OR_RETURN(options.add_prefix_space, node.BoolOr("add_prefix_space", true));
    THRESHER_ASSIGN_OR_RETURN(options.use_regex, node.BoolOr("use_regex", true));
    result.byte_level = options;
  } else if (type == "Sequence") {
    std::vector<std::unique_ptr<PreTokenizer>> parts;
    THRESHER_RETURN_IF_ERROR(
        ForEachInSequence(node, "pretokenizers", [&](const JsonNode& element) -> absl::Status {
          if (result.byte_level || result.metaspace) {
            return Unsupported(element, "a pre-tokenizer after ByteLevel or Metaspace");
          }
          THRESHER_ASSIGN_OR_RETURN(PreTokenizing part, ParsePreTokenizer(element));
          if (part.splitter != nullptr) parts.push_back(std::move(part.splitter));
          result.byte_level = part.byte_level;
          result.metaspace = part.metaspace;
          return absl::OkStatus();
        }));
    if (!parts.empty()) result.splitter = MakeSequence(std::move(parts));
  } else {
    return Unsupported(node, fmt::format("pre-tokenizer '{}'", type));
  }
  return result;
}

absl::StatusOr<PostProcessor> ParsePostProcessor(const JsonNode& node,
                                                 const Vocabulary& vocabulary) {
  THRESHER_ASSIGN_OR_RETURN(const std::string type, ComponentType(node));
  if (type == "TemplateProcessing") {
    PostProcessor result;
    THRESHER_ASSIGN_OR_RETURN(result.single, ParseTemplate(node, "single", 1, vocabulary));
    THRESHER_ASSIGN_OR_RETURN(result.pair, ParseTemplate(node, "pair", 2, vocabulary));
    return result;
  }
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    THRESHER_ASSIGN_OR_RETURN(const int32_t cls, ParseNamedId(node, "cls", vocabulary));
    THRESHER_ASSIGN_OR_RETURN(const int32_t sep, ParseNamedId(node, "sep", vocabulary));
    if (type == "BertProcessing") return BertPostProcessor(cls, sep);
    THRESHER_ASSIGN_OR_RETURN(const bool trim, node.BoolOr("trim_offsets", true));
    return RobertaPostProcessor(cls, sep, trim);
  }
  if (type == "ByteLevel") {
    PostProcessor result;
    THRESHER_ASSIGN_OR_RETURN(result.trim_offsets, node.BoolOr("trim_offsets", true));
    return result;
  }
  if (type == "Sequence") {
    PostProcessor result;
    bool has_template = false;
    THRESHER_RETURN_IF_ERROR(
        ForEachInSequence(node, "processors", [&](const JsonNode& element) -> absl::Status {
          THRESHER_ASSIGN_OR_RETURN(const std::string element_type, ComponentType(element));
          THRESHER_ASSIGN_OR_RETURN(PostProcessor part, ParsePostProcessor(element, vocabulary));
          const bool trim = result.trim_offsets || part.trim_offsets;
          if (element_type != "ByteLevel") {
            if (has_template) return Unsupported(element, "a second template in a Sequence");
            has_template = true;
            result = std::move(part);
          }
          result.trim_offsets = trim;
          return absl::OkStatus();
        }));
    return result;
  }
  return Unsupported(node, fmt::format("post-processor '{}'", type));
}

absl::StatusOr<Decoder> ParseDecoder(const JsonNode& node) {
  THRESHER_ASSIGN_OR_RETURN(const std::string type, ComponentType(node));
  if (type != "Sequence") {
    THRESHER_ASSIGN_OR_RETURN(MakeDecodeStep step, ParseDecodeStep(node, /*fused=*/false));
    return step == nullptr ? Decoder({}) : Decoder({std::move(step)});
  }
  std::vector<MakeDecodeStep> steps;
  bool fused = false;  // Whether all tokens are one from here on.
  THRESHER_RETURN_IF_ERROR(
      ForEachInSequence(node, "decoders", [&](const JsonNode& element) -> absl::Status {
        THRESHER_ASSIGN_OR_RETURN(MakeDecodeStep step, ParseDecodeStep(element, fused));
        if (step != nullptr) {
          steps.push_back(std::move(step));
        } else {
          fused = true;
        }
        return absl::OkStatus();
      }));
  return Decoder(std::move(steps));
}

}  // namespace thresher::text
