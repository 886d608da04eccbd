// What turns the words of a text into tokens.
#ifndef THRESHER_BACKEND_TEXT_TOKEN_MODEL_H_
#define THRESHER_BACKEND_TEXT_TOKEN_MODEL_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "backend/text/span.h"

namespace thresher::text {

/// A token and the bytes of the text that it covers.
struct Piece {
  int32_t id = 0;
  Span span;
};

class TokenModel {
 public:
  virtual ~TokenModel() = default;

  /// Appends the tokens of the words, which are parts of `text`, in order. May stop after the word
  /// with which `pieces` has grown by `enough` or more.
  virtual void Tokenize(std::string_view text, std::span<const Span> words, size_t enough,
                        std::vector<Piece>& pieces) const = 0;
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_TOKEN_MODEL_H_
