#include "backend/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>

namespace thresher::text {
namespace {

bool Contains(std::span<const CharacterRange> ranges, char32_t character) {
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), character,
                       [](char32_t c, const CharacterRange& range) { return c < range.first; });
  return after != ranges.begin() && character <= std::prev(after)->last;
}

utf8proc_category_t Category(char32_t character) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(character));
}

// The length of the leading run of ASCII bytes, by eights.
size_t AsciiPrefix(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t block;
    std::memcpy(&block, text.data() + i, sizeof block);
    if (block & 0x8080808080808080) break;
  }
  while (i < text.size() && static_cast<unsigned char>(text[i]) < 0x80) ++i;
  return i;
}

}  // namespace

Utf8Sequence ExamineUtf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  using enum Utf8Sequence::Kind;
  const unsigned char lead = byte(0);
  int length;
  unsigned char low = 0x80, high = 0xBF;  // What the second byte may be.
  if (lead < 0x80) {
    length = 1;
  } else if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;   // Overlong.
    if (lead == 0xED) high = 0x9F;  // Surrogates.
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;   // Overlong.
    if (lead == 0xF4) high = 0x8F;  // Past U+10FFFF.
  } else {
    return {1, kInvalid};
  }
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) >= text.size()) return {i, kIncomplete};
    if (byte(i) < low || byte(i) > high) return {i, kInvalid};
    low = 0x80;
    high = 0xBF;
  }
  return {length, kValid};
}

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  size_t i = 0;
  while (true) {
    i += AsciiPrefix(text.substr(i));
    // Text in another script has few ASCII runs: stay in the loop until the next one.
    while (i < text.size() && static_cast<unsigned char>(text[i]) >= 0x80) {
      const Utf8Sequence sequence = ExamineUtf8(text.substr(i));
      if (sequence.kind != Utf8Sequence::Kind::kValid) return i;
      i += sequence.length;
    }
    if (i == text.size()) return std::nullopt;
  }
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      result.push_back(text[i++]);
      continue;
    }
    const Utf8Sequence sequence = ExamineUtf8(text.substr(i));
    if (sequence.kind == Utf8Sequence::Kind::kValid) {
      result.append(text, i, sequence.length);
    } else {
      AppendUtf8(kReplacementCharacter, result);
    }
    i += sequence.length;
  }
  return result;
}

bool IsAscii(std::string_view text) { return AsciiPrefix(text) == text.size(); }

char32_t NextCharacter(std::string_view text, size_t& position) {
  const auto byte = [&](size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[position + i]));
  };
  const char32_t lead = byte(0);
  char32_t character;
  if (lead < 0x80) {
    position += 1;
    return lead;
  }
  if (lead < 0xE0) {
    character = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
    position += 2;
  } else if (lead < 0xF0) {
    character = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    position += 3;
  } else {
    character =
        (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    position += 4;
  }
  return character;
}

char32_t PreviousCharacter(std::string_view text, size_t& position) {
  do {
    --position;
  } while (IsContinuationByte(text[position]));
  size_t end = position;
  return NextCharacter(text, end);
}

size_t CountCharacters(std::string_view text) {
  return text.size() - std::count_if(text.begin(), text.end(), IsContinuationByte);
}

void AppendUtf8(char32_t c, std::string& text) {
  const auto push = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    push(c);
  } else if (c < 0x800) {
    push(0xC0 | c >> 6);
    push(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    push(0xE0 | c >> 12);
    push(0x80 | (c >> 6 & 0x3F));
    push(0x80 | (c & 0x3F));
  } else {
    push(0xF0 | c >> 18);
    push(0x80 | (c >> 12 & 0x3F));
    push(0x80 | (c >> 6 & 0x3F));
    push(0x80 | (c & 0x3F));
  }
}

bool IsWhitespace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsLetter(char32_t c) {
  if (c < 0x80) return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
  const utf8proc_category_t category = Category(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsNumber(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const utf8proc_category_t category = Category(c);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsMark(char32_t c) {
  if (c < 0x300) return false;
  const utf8proc_category_t category = Category(c);
  return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

bool IsWordCharacter(char32_t c) {
  if (c < 0x80) return IsLetter(c) || IsNumber(c) || c == '_';
  const utf8proc_category_t category = Category(c);
  if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL)
    return true;  // L M Nd Nl
  if (category == UTF8PROC_CATEGORY_PC) return true;
  // Joiners, and the symbols that are alphabetic: letters in circles and squares.
  return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) ||
         (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
         (c >= 0x1F170 && c <= 0x1F189);
}

bool IsAsciiPunctuation(char32_t c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

bool IsBertAccent(char32_t c) { return c >= 0x300 && Contains(NonspacingMarks(), c); }

bool IsBertPunctuation(char32_t c) {
  return c < 0x80 ? IsAsciiPunctuation(c) : Contains(Punctuation(), c);
}

bool IsBertControl(char32_t c) {
  if (c < 0xA0) return (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c >= 0x7F;
  return c == kReplacementCharacter || Contains(FormatAndPrivate(), c);
}

bool IsBertIdeograph(char32_t c) {
  if (c < 0x3400) return false;
  // 2B920 in the last but two is the reference implementation's number; the block begins at 2B820.
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B81F) ||
         (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) ||
         (c >= 0x2F800 && c <= 0x2FA1F);
}

CharacterKind KindOf(char32_t c) {
  if (IsLetter(c)) return CharacterKind::kLetter;
  if (IsWhitespace(c)) return CharacterKind::kSpace;
  return IsNumber(c) ? CharacterKind::kNumber : CharacterKind::kOther;
}

int ToLower(char32_t c, char32_t result[2]) {
  if (c == 0x130) {  // The only character whose full lowercase is longer than itself.
    result[0] = 'i';
    result[1] = 0x307;
    return 2;
  }
  if (c < 0x80) {
    result[0] = c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
  } else {
    result[0] = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
  }
  return 1;
}

int CombiningClass(char32_t c) {
  if (c < 0x300) return 0;
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class;
}

int Decompose(char32_t c, bool compatible, char32_t result[kMaxDecomposition]) {
  result[0] = c;
  if (c < 0xA0) return 1;
  utf8proc_int32_t buffer[kMaxDecomposition];
  int boundclass = 0;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE |
                                                      (compatible ? UTF8PROC_COMPAT : 0));
  const utf8proc_ssize_t length = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), buffer,
                                                          kMaxDecomposition, options, &boundclass);
  if (length < 1 || length > kMaxDecomposition) return 1;
  std::copy(buffer, buffer + length, result);
  return static_cast<int>(length);
}

std::optional<char32_t> Compose(char32_t first, char32_t second) {
  if (second < 0x300) return std::nullopt;
  utf8proc_int32_t pair[] = {static_cast<utf8proc_int32_t>(first),
                             static_cast<utf8proc_int32_t>(second)};
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  if (utf8proc_normalize_utf32(pair, 2, options) != 1) return std::nullopt;
  return static_cast<char32_t>(pair[0]);
}

}  // namespace thresher::text
