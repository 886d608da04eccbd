#include "backend/text/byte_level.h"

#include <array>
#include <cstdint>

#include "backend/text/unicode.h"

namespace thresher::text {
namespace {

using Kind = CharacterKind;

// The length of 's 't 're 've 'm 'll 'd at the beginning of the text, else 0.
size_t ContractionLength(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  switch (text[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return text.size() > 2 && text[2] == 'e' ? 3 : 0;
    case 'l':
      return text.size() > 2 && text[2] == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

// The printable characters of Latin-1, which spell their own bytes.
constexpr bool SpellsItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

constexpr char32_t kFirstSubstitute = 0x100;
constexpr int kSubstitutes = 68;

struct Spelling {
  std::array<char32_t, 256> character{};                 // Of each byte.
  std::array<unsigned char, kSubstitutes> substitute{};  // The byte of U+0100 + i.
};

constexpr Spelling MakeSpelling() {
  Spelling spelling;
  int used = 0;
  for (int byte = 0; byte < 256; ++byte) {
    if (SpellsItself(byte)) {
      spelling.character[byte] = static_cast<char32_t>(byte);
    } else {
      spelling.character[byte] = kFirstSubstitute + static_cast<char32_t>(used);
      spelling.substitute[used++] = static_cast<unsigned char>(byte);
    }
  }
  return spelling;
}

constexpr Spelling kSpelling = MakeSpelling();

}  // namespace

void SplitLikeGpt2(std::string_view text, Span piece, std::vector<Span>& words) {
  text = text.substr(0, piece.end);
  size_t i = piece.begin;
  const auto emit = [&](size_t end) {
    words.push_back({static_cast<int32_t>(i), static_cast<int32_t>(end)});
    i = end;
  };
  while (i < text.size()) {
    if (const size_t length = ContractionLength(text.substr(i)); length > 0) {
      emit(i + length);
      continue;
    }
    // A run of one kind, with the space before it.
    size_t end = i;
    if (text[i] == ' ' && i + 1 < text.size()) ++end;
    const Kind kind = KindOf(NextCharacter(text, end));
    if (kind != Kind::kSpace) {
      for (size_t next = end; next < text.size(); end = next) {
        if (KindOf(NextCharacter(text, next)) != kind) break;
      }
      emit(end);
      continue;
    }
    // White space: all of the run at the end of the text; before text, all but its last character,
    // which then is a run of its own unless it is the space that the text takes.
    end = i;
    size_t last = i;
    while (end < text.size()) {
      size_t next = end;
      if (!IsWhitespace(NextCharacter(text, next))) break;
      last = end;
      end = next;
    }
    emit(end == text.size() || last == i ? end : last);
  }
}

char32_t ByteToCharacter(unsigned char byte) { return kSpelling.character[byte]; }

std::optional<unsigned char> CharacterToByte(char32_t c) {
  if (c < 0x100) {
    if (SpellsItself(static_cast<int>(c))) return static_cast<unsigned char>(c);
  } else if (c - kFirstSubstitute < kSubstitutes) {
    return kSpelling.substitute[c - kFirstSubstitute];
  }
  return std::nullopt;
}

std::string SpellBytes(std::string_view bytes) {
  std::string spelling;
  for (const char byte : bytes) {
    AppendUtf8(ByteToCharacter(static_cast<unsigned char>(byte)), spelling);
  }
  return spelling;
}

void AppendSpelledBytes(std::string_view spelling, std::string& bytes) {
  const size_t size = bytes.size();
  for (size_t i = 0; i < spelling.size();) {
    const auto byte = CharacterToByte(NextCharacter(spelling, i));
    if (!byte) {
      bytes.resize(size);
      bytes.append(spelling);
      return;
    }
    bytes.push_back(static_cast<char>(*byte));
  }
}

}  // namespace thresher::text
