// SentencePiece's Unigram model: of all ways to cut a text into pieces, the one with the largest
// sum of scores.
#ifndef THRESHER_BACKEND_TEXT_SENTENCEPIECE_UNIGRAM_H_
#define THRESHER_BACKEND_TEXT_SENTENCEPIECE_UNIGRAM_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/text/sentencepiece_file.h"
#include "backend/text/sentencepiece_lexicon.h"
#include "backend/text/token_model.h"
#include "backend/text/trie.h"

namespace thresher::text {

/// For each character of a text at most as many steps as the longest piece has bytes.
class SentencePieceUnigram final : public TokenModel {
 public:
  /// INVALID_ARGUMENT for pieces that SentencePieceLexicon refuses.
  static absl::StatusOr<SentencePieceUnigram> Create(const SentencePieceFile& model);

  void Tokenize(std::string_view text, std::span<const Span> words, size_t enough,
                std::vector<Piece>& pieces) const override;

 private:
  explicit SentencePieceUnigram(SentencePieceLexicon lexicon) : lexicon_(std::move(lexicon)) {}

  void TokenizeWord(std::string_view text, Span word, std::vector<Piece>& pieces) const;
  double PieceScore(int32_t id, size_t length) const;

  SentencePieceLexicon lexicon_;
  Trie pieces_;  // Those that a text may be made of.
  float unknown_score_ = 0;
  float best_score_ = 0;
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_SENTENCEPIECE_UNIGRAM_H_
