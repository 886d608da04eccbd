// UTF-8 and the character classes that the tokenizers of the field are defined by.
//
// General properties come from utf8proc. The classes of the BERT normalizer and pre-tokenizer come
// from tables of Unicode 8.0 instead: that is what the reference implementation is built with, and
// so the same text gives the same tokens whatever version of utf8proc is installed.
#ifndef THRESHER_BACKEND_TEXT_UNICODE_H_
#define THRESHER_BACKEND_TEXT_UNICODE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace thresher::text {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

// ---- UTF-8 ----

/// What a text that is not empty begins with.
struct Utf8Sequence {
  enum class Kind {
    kValid,       // A character.
    kInvalid,     // No character, whatever follows.
    kIncomplete,  // The text ends within what may become a character.
  };
  int length;  // Bytes of the character, or of the longest prefix of one (at least 1).
  Kind kind;
};
Utf8Sequence ExamineUtf8(std::string_view text);

/// The byte offset of the first sequence that is not UTF-8, or nothing if all of it is.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

/// The text with each maximal invalid sequence replaced by U+FFFD.
std::string ReplaceInvalidUtf8(std::string_view text);

bool IsAscii(std::string_view text);

/// Whether the byte is in the middle of a character.
inline bool IsContinuationByte(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

/// The character that begins at `position`, which moves past it. The text must be valid UTF-8.
char32_t NextCharacter(std::string_view text, size_t& position);

/// The character that ends at `position`, which moves to its begin. The text must be valid UTF-8.
char32_t PreviousCharacter(std::string_view text, size_t& position);

/// The number of characters of valid UTF-8.
size_t CountCharacters(std::string_view text);

void AppendUtf8(char32_t character, std::string& text);

// ---- Classes ----

/// White_Space of Unicode; what regular expressions call \s.
bool IsWhitespace(char32_t character);
/// General category L; \p{L}.
bool IsLetter(char32_t character);
/// General category N; \p{N}.
bool IsNumber(char32_t character);
/// General category M.
bool IsMark(char32_t character);
/// What regular expressions call \w: alphabetic, marks, decimal digits, connectors, joiners.
bool IsWordCharacter(char32_t character);
bool IsAsciiPunctuation(char32_t character);

/// General category Mn in Unicode 8.0: what BERT strips as accents.
bool IsBertAccent(char32_t character);
/// General category P in Unicode 8.0, and all ASCII punctuation.
bool IsBertPunctuation(char32_t character);
/// General categories Cc, Cf and Co in Unicode 8.0 except tab, line feed and carriage return; also
/// U+0000 and U+FFFD: what BERT's clean_text removes.
bool IsBertControl(char32_t character);
/// The ideographs that BERT makes words of their own.
bool IsBertIdeograph(char32_t character);

/// How the regular expressions of byte-level tokenizers part characters: \p{L}, \p{N}, \s, the
/// rest.
enum class CharacterKind : uint8_t { kLetter, kNumber, kSpace, kOther };
CharacterKind KindOf(char32_t character);

// ---- Mappings ----

/// Full, context-free lowercase mapping: one character, or two for U+0130. Writes to `result` and
/// returns how many.
int ToLower(char32_t character, char32_t result[2]);

/// Canonical combining class; 0 for starters.
int CombiningClass(char32_t character);

inline constexpr int kMaxDecomposition = 32;
/// The full decomposition of one character, canonical or compatible. Returns its length.
int Decompose(char32_t character, bool compatible, char32_t result[kMaxDecomposition]);

/// The primary composite of two characters, if there is one.
std::optional<char32_t> Compose(char32_t first, char32_t second);

// ---- Tables of Unicode 8.0 (unicode_tables.cc) ----

struct CharacterRange {
  char32_t first;
  char32_t last;
};
/// Sorted and disjoint; none has ASCII characters.
std::span<const CharacterRange> NonspacingMarks();
std::span<const CharacterRange> Punctuation();
std::span<const CharacterRange> FormatAndPrivate();

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_UNICODE_H_
