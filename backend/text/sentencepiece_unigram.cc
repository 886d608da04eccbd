#include "backend/text/sentencepiece_unigram.h"

#include <algorithm>
#include <limits>

#include "backend/tensor/status.h"
#include "backend/text/unicode.h"

namespace thresher::text {
namespace {

// How much less than the worst piece an unknown character scores.
constexpr float kUnknownPenalty = 10;

}  // namespace

absl::StatusOr<SentencePieceUnigram> SentencePieceUnigram::Create(const SentencePieceFile& model) {
  THRESHER_ASSIGN_OR_RETURN(SentencePieceLexicon lexicon, SentencePieceLexicon::Create(model));
  SentencePieceUnigram unigram(std::move(lexicon));
  float worst = std::numeric_limits<float>::max();
  float best = std::numeric_limits<float>::min();  // Above all scores, which are logarithms.
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const auto& piece = model.pieces[i];
    if (unigram.lexicon_.IsInTexts(id) && !unigram.lexicon_.IsUnused(id)) {
      unigram.pieces_.Insert(piece.text, id);
    }
    if (piece.type == SentencePieceFile::Type::kNormal) {
      worst = std::min(worst, piece.score);
      best = std::max(best, piece.score);
    }
  }
  unigram.unknown_score_ = worst - kUnknownPenalty;
  unigram.best_score_ = best;
  return unigram;
}

void SentencePieceUnigram::Tokenize(std::string_view text, std::span<const Span> words,
                                    size_t enough, std::vector<Piece>& pieces) const {
  const size_t before = pieces.size();
  for (const Span& word : words) {
    if (pieces.size() - before >= enough) return;
    TokenizeWord(text, word, pieces);
  }
}

// A user-defined piece scores so much that it always is taken.
double SentencePieceUnigram::PieceScore(int32_t id, size_t length) const {
  if (!lexicon_.IsUserDefined(id)) return lexicon_.Score(id);
  return static_cast<float>(length) * best_score_ - 0.1;
}

void SentencePieceUnigram::TokenizeWord(std::string_view text, Span word,
                                        std::vector<Piece>& pieces) const {
  // The best way to reach each byte of the word.
  struct Path {
    int32_t id = -1;
    int32_t begin = -1;  // Of the piece that ends here; -1: not reached.
    float score = 0;
  };
  const std::string_view content = word.In(text);
  std::vector<Path> paths(content.size() + 1);
  for (size_t begin = 0, next = 0; begin < content.size(); begin = next) {
    NextCharacter(content, next);
    const float score = paths[begin].score;
    const auto offer = [&](size_t end, int32_t id, double sum) {
      Path& path = paths[end];
      if (path.begin >= 0 && !(sum > path.score)) return;
      path = {id, static_cast<int32_t>(begin), static_cast<float>(sum)};
    };
    bool has_character = false;  // Whether the character alone is a piece.
    uint32_t node = Trie::kRoot;
    for (size_t end = begin; end < content.size();) {
      node = pieces_.Step(node, content[end++]);
      if (node == Trie::kNoNode) break;
      const int32_t id = pieces_.Number(node);
      if (id < 0) continue;
      offer(end, id, PieceScore(id, end - begin) + score);
      has_character = has_character || end == next;
    }
    if (!has_character) offer(next, lexicon_.unknown(), unknown_score_ + score);
  }
  std::vector<Piece> backwards;
  for (auto end = static_cast<int32_t>(content.size()); end > 0; end = paths[end].begin) {
    backwards.push_back({paths[end].id, {word.begin + paths[end].begin, word.begin + end}});
  }
  const size_t before = pieces.size();
  std::for_each(backwards.rbegin(), backwards.rend(), [&](const Piece& piece) {
    lexicon_.Emit(piece.id, text, piece.span, before, pieces);
  });
}

}  // namespace thresher::text
