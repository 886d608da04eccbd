// Text that was rewritten but still knows where each part of it came from.
#ifndef THRESHER_BACKEND_TEXT_ALIGNED_TEXT_H_
#define THRESHER_BACKEND_TEXT_ALIGNED_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "backend/text/span.h"

namespace thresher::text {

/// A character and the bytes of the original text it stands for. A character that replaces another
/// keeps its source; one that was inserted shares the source of the one before.
struct Character {
  char32_t code = 0;
  Span source;
};
using Characters = std::vector<Character>;

/// The characters of valid UTF-8 that begins at byte `base` of the original text.
Characters ToCharacters(std::string_view text, int32_t base);

/// Rewritten UTF-8 with the source of every byte.
class AlignedText {
 public:
  /// Text whose byte i is, or replaces, byte base + i of the original.
  AlignedText(std::string text, int32_t base) : text_(std::move(text)), base_(base) {}
  explicit AlignedText(const Characters& characters);

  const std::string& text() const { return text_; }

  /// The bytes of the original that the non-empty [range) of the text came from: always whole
  /// characters. Every byte of a character has the source of that character.
  Span Source(Span range) const;

 private:
  std::string text_;
  int32_t base_ = 0;
  std::vector<Span> sources_;  // For each byte; empty where byte i comes from base_ + i.
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_ALIGNED_TEXT_H_
