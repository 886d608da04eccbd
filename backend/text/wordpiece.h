// WordPiece: the longest token that begins the word, then the longest that continues it, and so on.
#ifndef THRESHER_BACKEND_TEXT_WORDPIECE_H_
#define THRESHER_BACKEND_TEXT_WORDPIECE_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/text/token_model.h"
#include "backend/text/trie.h"
#include "backend/text/vocabulary.h"

namespace thresher::text {

struct WordPieceOptions {
  std::string unknown_token = "[UNK]";
  std::string continuing_prefix = "##";  // How the vocabulary marks tokens that continue a word.
  int32_t max_characters_per_word = 100;
};

/// A word that can't be covered, or is too long, is one unknown token. At most as many steps for a
/// word as its characters squared, which max_characters_per_word bounds.
class WordPiece final : public TokenModel {
 public:
  /// INVALID_ARGUMENT if the vocabulary has no unknown token. Does not keep the vocabulary.
  static absl::StatusOr<WordPiece> Create(const Vocabulary& vocabulary,
                                          const WordPieceOptions& options);

  void Tokenize(std::string_view text, std::span<const Span> words, size_t enough,
                std::vector<Piece>& pieces) const override;

 private:
  WordPiece() = default;

  // False if the word is not covered; `pieces` then holds the tokens of its beginning.
  bool TokenizeWord(std::string_view text, Span word, std::vector<Piece>& pieces) const;

  Trie tokens_;
  uint32_t continuing_ = Trie::kNoNode;  // Where the tokens that continue a word begin.
  int32_t unknown_ = 0;
  size_t max_characters_per_word_ = 0;
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_WORDPIECE_H_
