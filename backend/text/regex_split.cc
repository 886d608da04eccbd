// The pre-tokenizers of pre_tokenizer.h that published files have as regular expressions.
#include <string_view>

#include "backend/text/pre_tokenizer.h"
#include "backend/text/unicode.h"

namespace thresher::text {
namespace {

using Kind = CharacterKind;

// They differ in how many number characters make a word.
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

bool IsLineEnd(char32_t c) { return c == '\r' || c == '\n'; }

// One match after another. Each method looks for an alternative at `begin`, and returns its end, or
// `begin` if it does not match there.
class Splitter final : public PreTokenizer {
 public:
  explicit Splitter(int most_digits) : most_digits_(most_digits) {}

  void Split(std::string_view text, Span piece, std::vector<Span>& words) const override {
    text = text.substr(0, piece.end);
    for (auto i = static_cast<size_t>(piece.begin); i < text.size();) {
      size_t end = Contraction(text, i);
      if (end == i) end = Letters(text, i);
      if (end == i) end = Numbers(text, i);
      if (end == i) end = Others(text, i);
      if (end == i) end = Spaces(text, i);
      words.push_back({static_cast<int32_t>(i), static_cast<int32_t>(end)});
      i = end;
    }
  }

 private:
  // In any case; U+017F is an 's'.
  static size_t Contraction(std::string_view text, size_t begin) {
    if (text[begin] != '\'' || begin + 1 == text.size()) return begin;
    size_t end = begin + 1;
    const auto next = [&]() -> char32_t {
      if (end == text.size()) return 0;
      const char32_t c = NextCharacter(text, end);
      return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
    };
    switch (next()) {
      case 's':
      case U'\u017f':
      case 't':
      case 'm':
      case 'd':
        return end;
      case 'r':
      case 'v':
        return next() == 'e' ? end : begin;
      case 'l':
        return next() == 'l' ? end : begin;
      default:
        return begin;
    }
  }

  // Letters, with any one character before them that is neither a number nor the end of a line.
  static size_t Letters(std::string_view text, size_t begin) {
    size_t first = begin;
    const char32_t c = NextCharacter(text, first);
    const Kind kind = KindOf(c);
    if (kind == Kind::kLetter) return RunEnd(text, first, Kind::kLetter);
    if (kind == Kind::kNumber || IsLineEnd(c)) return begin;
    const size_t end = RunEnd(text, first, Kind::kLetter);
    return end > first ? end : begin;
  }

  size_t Numbers(std::string_view text, size_t begin) const {
    size_t end = begin;
    for (int i = 0; i < most_digits_ && end < text.size(); ++i) {
      size_t next = end;
      if (KindOf(NextCharacter(text, next)) != Kind::kNumber) break;
      end = next;
    }
    return end;
  }

  // Neither letters, numbers nor white space, with a space before and ends of lines after them.
  static size_t Others(std::string_view text, size_t begin) {
    const size_t first = text[begin] == ' ' ? begin + 1 : begin;
    size_t end = RunEnd(text, first, Kind::kOther);
    if (end == first) return begin;
    while (end < text.size() && IsLineEnd(static_cast<unsigned char>(text[end]))) ++end;
    return end;
  }

  // White space up to the last end of a line in it; without one, all of it at the end of the text;
  // before other text all but its last character, unless that is all there is.
  static size_t Spaces(std::string_view text, size_t begin) {
    size_t end = begin, last = begin, after_line = begin;
    while (end < text.size()) {
      size_t next = end;
      const char32_t c = NextCharacter(text, next);
      if (KindOf(c) != Kind::kSpace) break;
      last = end;
      end = next;
      if (IsLineEnd(c)) after_line = end;
    }
    if (after_line > begin) return after_line;
    return end == text.size() || last == begin ? end : last;
  }

  // Where the run of the kind ends that begins at `begin`, if one does.
  static size_t RunEnd(std::string_view text, size_t begin, Kind kind) {
    size_t end = begin;
    for (size_t next = end; next < text.size(); end = next) {
      if (KindOf(NextCharacter(text, next)) != kind) break;
    }
    return end;
  }

  const int most_digits_;
};

}  // namespace

std::unique_ptr<PreTokenizer> MakeRegexSplit(std::string_view expression) {
  if (expression == kLlama3) return std::make_unique<Splitter>(3);
  if (expression == kQwen2) return std::make_unique<Splitter>(1);
  return nullptr;
}

}  // namespace thresher::text
