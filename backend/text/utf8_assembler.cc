#include "backend/text/utf8_assembler.h"

#include "backend/text/unicode.h"

namespace thresher::text {

void Utf8Assembler::Push(std::string_view bytes, std::string& text) {
  held_ += bytes;
  Assemble(/*is_end=*/false, text);
}

void Utf8Assembler::Finish(std::string& text) { Assemble(/*is_end=*/true, text); }

void Utf8Assembler::Assemble(bool is_end, std::string& text) {
  const std::string_view bytes = held_;
  size_t i = 0;
  while (i < bytes.size()) {
    const auto [length, kind] = ExamineUtf8(bytes.substr(i));
    if (kind == Utf8Sequence::Kind::kValid) {
      text.append(bytes, i, length);
      i += length;
      continue;
    }
    if (kind == Utf8Sequence::Kind::kIncomplete && !is_end) break;
    AppendUtf8(kReplacementCharacter, text);
    // The bytes after the first one of a broken character begin none either.
    i += replacement_ == Replacement::kEachByte ? 1 : length;
  }
  held_.erase(0, i);
}

}  // namespace thresher::text
