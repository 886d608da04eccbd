// The Metaspace pre-tokenizer: spaces become visible characters, which words then begin with.
#ifndef THRESHER_BACKEND_TEXT_METASPACE_H_
#define THRESHER_BACKEND_TEXT_METASPACE_H_

#include <vector>

#include "backend/text/aligned_text.h"
#include "backend/text/span.h"

namespace thresher::text {

struct MetaspaceOptions {
  /// Where a piece that does not begin with the replacement gets one.
  enum class Prepend {
    kAlways,
    kFirst,  // At the beginning of the original text.
    kNever,
  };
  char32_t replacement = U'\u2581';
  Prepend prepend = Prepend::kAlways;
  bool split = true;  // Cut before each replacement; else the piece is one word.
};

/// Rewrites a piece, which is not empty, of the text; sets `words` to the words of the result. What
/// is put before the piece has the source of its first character.
AlignedText ApplyMetaspace(const MetaspaceOptions& options, const AlignedText& text, Span piece,
                           std::vector<Span>& words);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_METASPACE_H_
