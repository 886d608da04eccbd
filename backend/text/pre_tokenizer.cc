#include "backend/text/pre_tokenizer.h"

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "backend/text/unicode.h"

namespace thresher::text {
namespace {

enum class Kind : uint8_t { kWord, kSymbol, kSpace };

// Cuts into maximal runs of one kind. Spaces are dropped; symbols are words, one by one or by run.
// `classify` gives the kind of a character; ASCII goes through a table of it.
template <Kind (*classify)(char32_t), bool each_symbol>
class KindSplitter final : public PreTokenizer {
 public:
  KindSplitter() {
    for (char32_t c = 0; c < ascii_.size(); ++c) ascii_[c] = classify(c);
  }

  void Split(std::string_view text, Span piece, std::vector<Span>& words) const override {
    const auto end = static_cast<size_t>(piece.end);
    int32_t begin = piece.begin;  // Of the run that is open.
    Kind open = Kind::kSpace;
    for (size_t i = piece.begin; i < end;) {
      const auto at = static_cast<int32_t>(i);
      const Kind kind = KindAt(text, i);
      if (kind == open && !(each_symbol && kind == Kind::kSymbol)) continue;
      if (open != Kind::kSpace) words.push_back({begin, at});
      begin = at;
      open = kind;
    }
    if (open != Kind::kSpace) words.push_back({begin, piece.end});
  }

 private:
  Kind KindAt(std::string_view text, size_t& i) const {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < ascii_.size()) {
      ++i;
      return ascii_[byte];
    }
    return classify(NextCharacter(text, i));
  }

  std::array<Kind, 128> ascii_;
};

Kind BertKind(char32_t c) {
  if (IsWhitespace(c)) return Kind::kSpace;
  return IsBertPunctuation(c) ? Kind::kSymbol : Kind::kWord;
}

Kind WordKind(char32_t c) {
  if (IsWhitespace(c)) return Kind::kSpace;
  return IsWordCharacter(c) ? Kind::kWord : Kind::kSymbol;
}

Kind SpaceKind(char32_t c) { return IsWhitespace(c) ? Kind::kSpace : Kind::kWord; }

// `match(text, i)` says where the delimiter ends that begins at i; i if none does.
template <typename Match>
class DelimiterSplitter final : public PreTokenizer {
 public:
  DelimiterSplitter(Match match, DelimiterBehavior behavior)
      : match_(std::move(match)), behavior_(behavior) {}

  void Split(std::string_view text, Span piece, std::vector<Span>& words) const override {
    std::vector<Span> mine;
    bool previous = false;  // Whether a delimiter came last.
    bool glue = false;      // Whether the next character belongs to the last word.
    text = text.substr(0, piece.end);
    for (auto i = static_cast<size_t>(piece.begin); i < text.size();) {
      const auto begin = static_cast<int32_t>(i);
      i = match_(text, i);
      const bool delimiter = i > static_cast<size_t>(begin);
      if (!delimiter) NextCharacter(text, i);
      const auto end = static_cast<int32_t>(i);
      if (delimiter) {
        switch (behavior_) {
          case DelimiterBehavior::kRemoved:
            glue = false;
            break;
          case DelimiterBehavior::kIsolated:
            mine.push_back({begin, end});
            glue = false;
            break;
          case DelimiterBehavior::kMergedWithPrevious:
            if (!previous && glue) {
              mine.back().end = end;
            } else {
              mine.push_back({begin, end});
            }
            glue = false;
            break;
          case DelimiterBehavior::kMergedWithNext:
            mine.push_back({begin, end});
            glue = true;
            break;
          case DelimiterBehavior::kContiguous:
            if (previous) {
              mine.back().end = end;
            } else {
              mine.push_back({begin, end});
            }
            glue = false;
            break;
        }
      } else if (glue) {
        mine.back().end = end;
      } else {
        mine.push_back({begin, end});
        glue = true;
      }
      previous = delimiter;
    }
    words.insert(words.end(), mine.begin(), mine.end());
  }

 private:
  const Match match_;
  const DelimiterBehavior behavior_;
};

template <bool (*is_delimiter)(char32_t)>
struct CharacterMatch {
  size_t operator()(std::string_view text, size_t i) const {
    size_t end = i;
    return is_delimiter(NextCharacter(text, end)) ? end : i;
  }
};

struct StringMatch {
  std::string pattern;
  size_t operator()(std::string_view text, size_t i) const {
    return text.substr(i).starts_with(pattern) ? i + pattern.size() : i;
  }
};

class Sequence final : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> parts) : parts_(std::move(parts)) {}

  void Split(std::string_view text, Span piece, std::vector<Span>& words) const override {
    std::vector<Span> current = {piece};
    for (const auto& part : parts_) {
      std::vector<Span> next;
      for (const Span& word : current) part->Split(text, word, next);
      current = std::move(next);
    }
    words.insert(words.end(), current.begin(), current.end());
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

}  // namespace

std::unique_ptr<PreTokenizer> MakeBertPreTokenizer() {
  return std::make_unique<KindSplitter<BertKind, /*each_symbol=*/true>>();
}
std::unique_ptr<PreTokenizer> MakeWhitespace() {
  return std::make_unique<KindSplitter<WordKind, /*each_symbol=*/false>>();
}
std::unique_ptr<PreTokenizer> MakeWhitespaceSplit() {
  return std::make_unique<KindSplitter<SpaceKind, /*each_symbol=*/false>>();
}
std::unique_ptr<PreTokenizer> MakePunctuation(DelimiterBehavior behavior) {
  using Match = CharacterMatch<IsBertPunctuation>;
  return std::make_unique<DelimiterSplitter<Match>>(Match(), behavior);
}
std::unique_ptr<PreTokenizer> MakeDigits(bool individual) {
  using Match = CharacterMatch<IsNumber>;
  return std::make_unique<DelimiterSplitter<Match>>(
      Match(), individual ? DelimiterBehavior::kIsolated : DelimiterBehavior::kContiguous);
}
std::unique_ptr<PreTokenizer> MakeSplit(std::string_view pattern, DelimiterBehavior behavior) {
  return std::make_unique<DelimiterSplitter<StringMatch>>(StringMatch{std::string(pattern)},
                                                          behavior);
}
std::unique_ptr<PreTokenizer> MakeSequence(std::vector<std::unique_ptr<PreTokenizer>> parts) {
  return std::make_unique<Sequence>(std::move(parts));
}

}  // namespace thresher::text
