// SentencePiece's BPE: neighbours that together are a piece are merged, the best score first.
#ifndef THRESHER_BACKEND_TEXT_SENTENCEPIECE_BPE_H_
#define THRESHER_BACKEND_TEXT_SENTENCEPIECE_BPE_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "backend/text/sentencepiece_file.h"
#include "backend/text/sentencepiece_lexicon.h"
#include "backend/text/token_model.h"
#include "backend/text/trie.h"
#include "backend/text/vocabulary.h"

namespace thresher::text {

/// Unlike Bpe, it knows no list of merges: any two neighbours may merge, be they tokens or not.
/// User-defined pieces never do. An unused piece is taken apart again in the end. n log n steps.
class SentencePieceBpe final : public TokenModel {
 public:
  /// INVALID_ARGUMENT for pieces that SentencePieceLexicon refuses, or that are there twice.
  static absl::StatusOr<SentencePieceBpe> Create(const SentencePieceFile& model);

  void Tokenize(std::string_view text, std::span<const Span> words, size_t enough,
                std::vector<Piece>& pieces) const override;

 private:
  struct Symbol;
  struct Candidate;
  struct Workspace;

  SentencePieceBpe(SentencePieceLexicon lexicon, Trie user_defined, size_t pieces)
      : lexicon_(std::move(lexicon)), user_defined_(std::move(user_defined)), pieces_(pieces) {}

  void Begin(std::string_view text, Span word, Workspace& workspace) const;
  // Considers to merge the symbol with the next one.
  void Consider(std::string_view text, int32_t position, Workspace& workspace) const;
  void MergeAll(std::string_view text, Workspace& workspace) const;
  // Appends the pieces of a symbol: more than one if it is unused.
  void Emit(std::string_view text, Span span, size_t before, const Workspace& workspace,
            std::vector<Piece>& pieces) const;

  SentencePieceLexicon lexicon_;
  Trie user_defined_;
  Vocabulary pieces_;  // Those in texts.
  int32_t longest_piece_ = 0;
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_SENTENCEPIECE_BPE_H_
