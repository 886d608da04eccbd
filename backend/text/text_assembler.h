// The text of a continuation, put together from its tokens as they are generated.
//
// A prompt's tokens go first; their text is dropped by the caller, or shown (echo). Then come the
// generated ones. The text ends before the first **stop string** that becomes complete in what was
// generated, wherever token boundaries are; text that may be the beginning of one is held back
// until it is known not to be. What comes out is whole characters, and final.
#ifndef THRESHER_BACKEND_TEXT_TEXT_ASSEMBLER_H_
#define THRESHER_BACKEND_TEXT_TEXT_ASSEMBLER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/text/tokenizer.h"

namespace thresher {

/// Belongs to one text and one thread.
class TextAssembler {
 public:
  /// Special tokens have no text. The tokenizer must outlive this object; `stop` has no empty
  /// string.
  TextAssembler(const Tokenizer& tokenizer, std::vector<std::string> stop);

  /// The text that a token of the prompt makes final. An id that the tokenizer does not know (a
  /// model's vocabulary may be larger) has none.
  std::string PushPrompt(int32_t id);
  /// The same of a generated token. Nothing may be pushed once stopped().
  std::string Push(int32_t id);
  /// No more comes: what was held back.
  std::string Finish();

  /// A stop string is complete: the text has ended before it.
  bool stopped() const { return stopped_; }

 private:
  std::string Decode(int32_t id);
  /// What of held_ is final now.
  std::string Release(bool last);

  const std::vector<std::string> stop_;
  const std::unique_ptr<TextStream> stream_;
  std::string held_;  // May be the beginning of a stop string.
  bool stopped_ = false;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_TEXT_TEXT_ASSEMBLER_H_
