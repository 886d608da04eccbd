#include "backend/text/aligned_text.h"

#include "backend/text/unicode.h"

namespace thresher::text {

Characters ToCharacters(std::string_view text, int32_t base) {
  Characters characters;
  characters.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto begin = static_cast<int32_t>(i);
    const char32_t code = NextCharacter(text, i);
    characters.push_back({code, {base + begin, base + static_cast<int32_t>(i)}});
  }
  return characters;
}

AlignedText::AlignedText(const Characters& characters) {
  text_.reserve(characters.size());
  sources_.reserve(characters.size());
  for (const Character& character : characters) {
    AppendUtf8(character.code, text_);
    sources_.resize(text_.size(), character.source);
  }
}

Span AlignedText::Source(Span range) const {
  if (!sources_.empty()) return {sources_[range.begin].begin, sources_[range.end - 1].end};
  while (range.begin > 0 && IsContinuationByte(text_[range.begin])) --range.begin;
  while (range.end < static_cast<int32_t>(text_.size()) && IsContinuationByte(text_[range.end])) {
    ++range.end;
  }
  return {base_ + range.begin, base_ + range.end};
}

}  // namespace thresher::text
