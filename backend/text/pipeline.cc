#include "backend/text/pipeline.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "backend/tensor/status.h"
#include "backend/text/unicode.h"

namespace thresher::text {
namespace {

absl::Status CheckText(std::string_view text, std::string_view name) {
  if (text.size() > kLongestText) {
    return InvalidArgument("{} has {} bytes; at most {} can be tokenized", name, text.size(),
                           kLongestText);
  }
  if (const auto position = FindInvalidUtf8(text)) {
    return InvalidArgument("{} is not valid UTF-8: byte 0x{:02x} at offset {}", name,
                           static_cast<unsigned char>(text[*position]), *position);
  }
  return absl::OkStatus();
}

// The tokens of one text.
class TextEncoder {
 public:
  // Stops when there are `enough` tokens or a few more.
  TextEncoder(const Pipeline& pipeline, std::string_view original, size_t enough)
      : pipeline_(pipeline), original_(original), enough_(enough) {}

  std::vector<EncodedToken> Encode() && {
    for (const auto& [span, token] : pipeline_.added_tokens.in_original().Split(original_)) {
      if (tokens_.size() >= enough_) break;
      if (token != nullptr) {
        EmitAdded(*token, span);
      } else if (pipeline_.normalizer != nullptr) {
        EncodeNormalized(pipeline_.normalizer->Normalize(span.In(original_), span.begin));
      } else {
        EncodeNormalized(AlignedText(std::string(span.In(original_)), span.begin));
      }
    }
    return std::move(tokens_);
  }

 private:
  void EncodeNormalized(const AlignedText& text) {
    for (const auto& [span, token] : pipeline_.added_tokens.in_normalized().Split(text.text())) {
      if (tokens_.size() >= enough_) return;
      if (token != nullptr) {
        EmitAdded(*token, text.Source(span));
      } else {
        EncodePiece(text, span);
      }
    }
  }

  // `piece` of the text has no added tokens.
  void EncodePiece(const AlignedText& text, Span piece) {
    words_.clear();
    if (pipeline_.pre_tokenizer != nullptr) {
      pipeline_.pre_tokenizer->Split(text.text(), piece, words_);
    } else {
      words_.push_back(piece);
    }
    if (!pipeline_.byte_level && !pipeline_.metaspace) {
      EncodeWords(text, words_);
      return;
    }
    for (const Span& word : words_) {
      if (tokens_.size() >= enough_) return;
      if (pipeline_.byte_level) {
        EncodeByteLevel(text, word);
      } else {
        std::vector<Span> parts;
        const AlignedText spaced = ApplyMetaspace(*pipeline_.metaspace, text, word, parts);
        EncodeWords(spaced, parts);
      }
    }
  }

  void EncodeWords(const AlignedText& text, std::span<const Span> words) {
    TokenizeWords(text.text(), words);
    for (const auto& [id, span] : pieces_) Emit(id, text.Source(span));
  }

  void EncodeByteLevel(const AlignedText& text, Span word) {
    const std::string_view content = word.In(text.text());
    const bool prefix = pipeline_.byte_level->add_prefix_space && content[0] != ' ';
    std::string prefixed;
    if (prefix) prefixed.append(1, ' ').append(content);
    const std::string_view bytes = prefix ? prefixed : content;
    const Span all = {0, static_cast<int32_t>(bytes.size())};
    std::vector<Span> matches;
    if (pipeline_.byte_level->use_regex) {
      SplitLikeGpt2(bytes, all, matches);
    } else {
      matches.push_back(all);
    }
    TokenizeWords(bytes, matches);
    const int32_t shift = word.begin - (prefix ? 1 : 0);
    for (auto [id, span] : pieces_) {
      const Span whole = span;
      if (pipeline_.post_processor.trim_offsets) {
        while (span.begin < span.end && bytes[span.begin] == ' ') ++span.begin;
        while (span.begin < span.end && bytes[span.end - 1] == ' ') --span.end;
      }
      const auto source = [&](Span part) {
        // The space that was put in has the source of the character after it.
        return text.Source(
            {std::max(part.begin + shift, word.begin), std::max(part.end + shift, word.begin + 1)});
      };
      if (span.begin < span.end) {
        Emit(id, source(span));
      } else {
        const int32_t end = source(whole).end;
        Emit(id, {end, end});
      }
    }
  }

  // Fills pieces_.
  void TokenizeWords(std::string_view text, std::span<const Span> words) {
    pieces_.clear();
    pipeline_.model->Tokenize(text, words, enough_ - tokens_.size(), pieces_);
  }

  void Emit(int32_t id, Span source) {
    tokens_.push_back({.id = id, .begin = source.begin, .end = source.end});
  }

  // White space that an added token took with it may be of any kind.
  void EmitAdded(const AddedToken& token, Span source) {
    if (pipeline_.post_processor.trim_offsets) {
      for (auto i = static_cast<size_t>(source.begin); source.begin < source.end;) {
        if (!IsWhitespace(NextCharacter(original_, i))) break;
        source.begin = static_cast<int32_t>(i);
      }
      for (auto i = static_cast<size_t>(source.end); source.begin < source.end;) {
        if (!IsWhitespace(PreviousCharacter(original_, i))) break;
        source.end = static_cast<int32_t>(i);
      }
    }
    Emit(token.id, source);
  }

  const Pipeline& pipeline_;
  const std::string_view original_;
  const size_t enough_;
  std::vector<EncodedToken> tokens_;
  std::vector<Span> words_;    // Workspace.
  std::vector<Piece> pieces_;  // Workspace.
};

class PipelineTokenizer final : public Tokenizer {
 public:
  explicit PipelineTokenizer(Pipeline pipeline) : pipeline_(std::move(pipeline)) {}

  absl::StatusOr<Encoding> Encode(std::string_view text,
                                  const EncodeOptions& options) const override {
    THRESHER_RETURN_IF_ERROR(CheckText(text, "text"));
    return EncodeTexts(text, {}, /*is_pair=*/false, options);
  }

  absl::StatusOr<Encoding> EncodePair(std::string_view first, std::string_view second,
                                      const EncodeOptions& options) const override {
    THRESHER_RETURN_IF_ERROR(CheckText(first, "first text"));
    THRESHER_RETURN_IF_ERROR(CheckText(second, "second text"));
    return EncodeTexts(first, second, /*is_pair=*/true, options);
  }

  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids,
                                     bool skip_special) const override {
    std::string text;
    Decoder::Stream stream = pipeline_.decoder.Begin();
    for (size_t i = 0; i < ids.size(); ++i) {
      if (auto status = PushId(ids[i], skip_special, stream, text); !status.ok()) {
        return Annotate(status, fmt::format("position {}", i));
      }
    }
    stream.Finish(text);
    return text;
  }

  std::unique_ptr<TextStream> DecodeStream(bool skip_special) const override {
    return std::make_unique<Stream>(*this, skip_special);
  }

  std::string_view TokenText(int32_t id) const override { return pipeline_.vocabulary->Text(id); }
  int32_t TokenId(std::string_view token) const override {
    return pipeline_.vocabulary->Find(token);
  }
  bool IsSpecial(int32_t id) const override { return pipeline_.added_tokens.IsSpecial(id); }
  int32_t vocab_size() const override { return pipeline_.vocabulary->size(); }
  int32_t model_max_length() const override { return pipeline_.model_max_length; }

 private:
  class Stream final : public TextStream {
   public:
    Stream(const PipelineTokenizer& tokenizer, bool skip_special)
        : tokenizer_(tokenizer),
          skip_special_(skip_special),
          stream_(tokenizer.pipeline_.decoder.Begin()) {}

    absl::StatusOr<std::string> Push(int32_t id) override {
      std::string text;
      THRESHER_RETURN_IF_ERROR(tokenizer_.PushId(id, skip_special_, stream_, text));
      return text;
    }
    std::string Finish() override {
      std::string text;
      stream_.Finish(text);
      return text;
    }

   private:
    const PipelineTokenizer& tokenizer_;
    const bool skip_special_;
    Decoder::Stream stream_;
  };

  // Appends what the id makes final.
  absl::Status PushId(int32_t id, bool skip_special, Decoder::Stream& stream,
                      std::string& text) const {
    if (!pipeline_.vocabulary->Has(id)) {
      return OutOfRange("token id {} is not in the vocabulary of {}", id, vocab_size());
    }
    if (!skip_special || !IsSpecial(id)) stream.Push(TokenText(id), text);
    return absl::OkStatus();
  }

  absl::StatusOr<Encoding> EncodeTexts(std::string_view first, std::string_view second,
                                       bool is_pair, const EncodeOptions& options) const {
    const Template& parts = pipeline_.post_processor.For(is_pair);
    const int64_t special = options.add_special_tokens ? CountSpecial(parts) : 0;
    if (options.max_tokens < 0) {
      return InvalidArgument("max_tokens is {}, but must not be negative", options.max_tokens);
    }
    const bool limited = options.max_tokens > 0;
    const int64_t room = options.max_tokens - special;  // For the texts, if limited.
    if (limited && room < 0) {
      return InvalidArgument("a limit of {} tokens has no room for the {} special tokens",
                             options.max_tokens, special);
    }
    // What is cut away from a single text need not be tokenized. Of a pair both lengths must be
    // known: they decide which one is cut more.
    const size_t enough = limited && options.truncate && !is_pair
                              ? static_cast<size_t>(room) + 1
                              : std::numeric_limits<size_t>::max();
    std::vector<EncodedToken> a = TextEncoder(pipeline_, first, enough).Encode();
    std::vector<EncodedToken> b = TextEncoder(pipeline_, second, enough).Encode();
    Encoding encoding;
    const auto total = static_cast<int64_t>(a.size() + b.size());
    if (limited && total > room) {
      if (!options.truncate) {
        return InvalidArgument(
            "{} has {} tokens, {} of them special; the limit is {}: shorten it or ask for "
            "truncation",
            is_pair ? "the pair of texts" : "the text", total + special, special,
            options.max_tokens);
      }
      const auto [keep_a, keep_b] =
          LongestFirst(static_cast<int64_t>(a.size()), static_cast<int64_t>(b.size()), room);
      a.resize(keep_a);
      b.resize(keep_b);
      encoding.truncated = true;
    }
    encoding.tokens = Assemble(parts, options.add_special_tokens, a, b);
    return encoding;
  }

  Pipeline pipeline_;
};

}  // namespace

std::unique_ptr<Tokenizer> MakeTokenizer(Pipeline pipeline) {
  return std::make_unique<PipelineTokenizer>(std::move(pipeline));
}

}  // namespace thresher::text
