// The byte-level scheme of GPT-2 and RoBERTa: text is cut by GPT-2's regular expression, and
// vocabularies spell each byte as a printable character (a space is "Ġ").
#ifndef THRESHER_BACKEND_TEXT_BYTE_LEVEL_H_
#define THRESHER_BACKEND_TEXT_BYTE_LEVEL_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/text/span.h"

namespace thresher::text {

/// How text is prepared for a byte-level model.
struct ByteLevelOptions {
  bool add_prefix_space = false;  // Put ' ' before a piece that does not begin with one.
  bool use_regex = true;          // Cut by the regular expression; else the piece is one word.
};

/// Appends the matches, in `text`, of GPT-2's expression
///   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
/// They follow each other and together are the whole of [piece]. Valid UTF-8 only; linear time.
void SplitLikeGpt2(std::string_view text, Span piece, std::vector<Span>& words);

/// How vocabularies spell one byte: itself where it is a printable Latin-1 character, else the next
/// unused character from U+0100 on.
char32_t ByteToCharacter(unsigned char byte);
std::optional<unsigned char> CharacterToByte(char32_t character);

/// The vocabulary's spelling of any bytes.
std::string SpellBytes(std::string_view bytes);

/// Appends the bytes that `spelling` (valid UTF-8) stands for; `spelling` itself if a character of
/// it stands for no byte, as in an added token.
void AppendSpelledBytes(std::string_view spelling, std::string& bytes);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_BYTE_LEVEL_H_
