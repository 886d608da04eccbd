// The pieces of a SentencePiece model, and what becomes of a character that is in none.
#ifndef THRESHER_BACKEND_TEXT_SENTENCEPIECE_LEXICON_H_
#define THRESHER_BACKEND_TEXT_SENTENCEPIECE_LEXICON_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/text/sentencepiece_file.h"
#include "backend/text/span.h"
#include "backend/text/token_model.h"
#include "backend/text/trie.h"

namespace thresher::text {

/// The user-defined pieces, with their ids.
Trie UserDefinedPieces(const SentencePieceFile& model);

class SentencePieceLexicon {
 public:
  /// INVALID_ARGUMENT unless there is one unknown piece and, with byte fallback, one piece for each
  /// byte.
  static absl::StatusOr<SentencePieceLexicon> Create(const SentencePieceFile& model);

  /// Whether texts are made of this piece; of unused ones only in between.
  bool IsInTexts(int32_t id) const {
    return types_[id] == Type::kNormal || types_[id] == Type::kUserDefined || IsUnused(id);
  }
  bool IsUnused(int32_t id) const { return types_[id] == Type::kUnused; }
  bool IsUserDefined(int32_t id) const { return types_[id] == Type::kUserDefined; }
  float Score(int32_t id) const { return scores_[id]; }
  int32_t unknown() const { return unknown_; }

  /// Appends a piece; instead of the unknown one its bytes, or it becomes part of an unknown one
  /// before it, if `pieces` grew beyond `before` by one.
  void Emit(int32_t id, std::string_view text, Span span, size_t before,
            std::vector<Piece>& pieces) const;

 private:
  using Type = SentencePieceFile::Type;

  SentencePieceLexicon() = default;

  std::vector<Type> types_;
  std::vector<float> scores_;
  int32_t unknown_ = -1;
  bool byte_fallback_ = false;
  std::array<int32_t, 256> bytes_{};
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_SENTENCEPIECE_LEXICON_H_
