// Characters out of bytes that come in pieces, a piece ending anywhere.
#ifndef THRESHER_BACKEND_TEXT_UTF8_ASSEMBLER_H_
#define THRESHER_BACKEND_TEXT_UTF8_ASSEMBLER_H_

#include <string>
#include <string_view>

namespace thresher::text {

/// Passes on whole characters, as soon as their last byte is there; what is not UTF-8 becomes
/// U+FFFD. Holds back at most three bytes. The result does not depend on where pieces end.
class Utf8Assembler {
 public:
  /// How many U+FFFD stand for bytes that are part of no character.
  enum class Replacement {
    kEachByte,      // As SentencePiece does.
    kEachSequence,  // One for the longest prefix of a character, as Unicode recommends.
  };
  explicit Utf8Assembler(Replacement replacement) : replacement_(replacement) {}

  /// Appends to `text` the characters that are complete.
  void Push(std::string_view bytes, std::string& text);
  /// Appends U+FFFD for what is incomplete; then begins anew.
  void Finish(std::string& text);

  bool empty() const { return held_.empty(); }

 private:
  void Assemble(bool is_end, std::string& text);

  Replacement replacement_;
  std::string held_;
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_UTF8_ASSEMBLER_H_
