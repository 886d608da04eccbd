#include "backend/text/metaspace.h"

#include <string_view>

#include "backend/text/unicode.h"

namespace thresher::text {

AlignedText ApplyMetaspace(const MetaspaceOptions& options, const AlignedText& text, Span piece,
                           std::vector<Span>& words) {
  using Prepend = MetaspaceOptions::Prepend;
  const std::string_view all = text.text();
  Characters characters;
  characters.reserve(piece.size() + 1);
  for (Span c = {piece.begin, piece.begin}; c.begin < piece.end; c.begin = c.end) {
    auto end = static_cast<size_t>(c.begin);
    const char32_t code = NextCharacter(all, end);
    c.end = static_cast<int32_t>(end);
    characters.push_back({code == U' ' ? options.replacement : code, text.Source(c)});
  }
  const Character first = characters.front();
  if (first.code != options.replacement &&
      (options.prepend == Prepend::kAlways ||
       (options.prepend == Prepend::kFirst && first.source.begin == 0))) {
    characters.insert(characters.begin(), {options.replacement, first.source});
  }
  AlignedText result(characters);
  words.clear();
  int32_t begin = 0;
  const auto size = static_cast<int32_t>(result.text().size());
  for (size_t i = 0; options.split && i < result.text().size();) {
    const auto at = static_cast<int32_t>(i);
    if (NextCharacter(result.text(), i) != options.replacement || at == 0) continue;
    words.push_back({begin, at});
    begin = at;
  }
  words.push_back({begin, size});
  return result;
}

}  // namespace thresher::text
