#include "backend/text/sentencepiece_bpe.h"

#include <algorithm>
#include <string>
#include <utility>

#include "backend/tensor/status.h"
#include "backend/text/unicode.h"

namespace thresher::text {

// A part of the word, in a doubly linked list by index.
struct SentencePieceBpe::Symbol {
  Span span;  // Empty: merged into the one before, no longer in the list.
  int32_t previous;
  int32_t next;
  bool frozen;  // Never merged.
};

// A merge of the symbol at `position` with the next one. Stale if their size together has changed.
struct SentencePieceBpe::Candidate {
  float score;
  int32_t position;
  int32_t size;

  // Heaps of the standard library have the largest on top: the best is the largest.
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score < b.score : a.position > b.position;
  }
};

struct SentencePieceBpe::Workspace {
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  absl::flat_hash_map<int32_t, int32_t> parts;  // Of unused pieces: the size of the left part.
};

absl::StatusOr<SentencePieceBpe> SentencePieceBpe::Create(const SentencePieceFile& model) {
  THRESHER_ASSIGN_OR_RETURN(SentencePieceLexicon lexicon, SentencePieceLexicon::Create(model));
  SentencePieceBpe bpe(std::move(lexicon), UserDefinedPieces(model), model.pieces.size());
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (!bpe.lexicon_.IsInTexts(id)) continue;
    const std::string& piece = model.pieces[i].text;
    THRESHER_RETURN_IF_ERROR(bpe.pieces_.Add(piece, id));
    bpe.longest_piece_ = std::max(bpe.longest_piece_, static_cast<int32_t>(piece.size()));
  }
  return bpe;
}

void SentencePieceBpe::Tokenize(std::string_view text, std::span<const Span> words, size_t enough,
                                std::vector<Piece>& pieces) const {
  const size_t before = pieces.size();
  Workspace workspace;
  for (const Span& word : words) {
    if (pieces.size() - before >= enough) return;
    Begin(text, word, workspace);
    MergeAll(text, workspace);
    const size_t mark = pieces.size();
    for (const Symbol& symbol : workspace.symbols) {
      if (symbol.span.size() > 0) Emit(text, symbol.span, mark, workspace, pieces);
    }
  }
}

void SentencePieceBpe::Begin(std::string_view text, Span word, Workspace& workspace) const {
  workspace.symbols.clear();
  workspace.heap.clear();
  workspace.parts.clear();
  const std::string_view whole = text.substr(0, word.end);
  for (int32_t begin = word.begin; begin < word.end;) {
    auto end = static_cast<size_t>(begin);
    const size_t length = user_defined_.LongestPrefix(whole.substr(begin)).length;
    if (length > 0) {
      end += length;
    } else {
      NextCharacter(whole, end);
    }
    const auto position = static_cast<int32_t>(workspace.symbols.size());
    const Span span = {begin, static_cast<int32_t>(end)};
    workspace.symbols.push_back({span, position - 1, position + 1, length > 0});
    begin = span.end;
  }
  if (!workspace.symbols.empty()) workspace.symbols.back().next = -1;
}

void SentencePieceBpe::Consider(std::string_view text, int32_t position,
                                Workspace& workspace) const {
  if (position < 0) return;
  const Symbol& left = workspace.symbols[position];
  if (left.next < 0 || left.frozen) return;
  const Symbol& right = workspace.symbols[left.next];
  if (right.frozen) return;
  const Span both = {left.span.begin, right.span.end};
  if (both.size() > longest_piece_) return;
  const int32_t id = pieces_.Find(both.In(text));
  if (id < 0) return;
  workspace.heap.push_back({lexicon_.Score(id), position, both.size()});
  std::push_heap(workspace.heap.begin(), workspace.heap.end());
  if (lexicon_.IsUnused(id)) workspace.parts[id] = left.span.size();
}

void SentencePieceBpe::MergeAll(std::string_view text, Workspace& workspace) const {
  std::vector<Symbol>& symbols = workspace.symbols;
  std::vector<Candidate>& heap = workspace.heap;
  for (size_t i = 0; i < symbols.size(); ++i) Consider(text, static_cast<int32_t>(i), workspace);
  while (!heap.empty()) {
    const Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
    Symbol& left = symbols[best.position];
    if (left.span.size() == 0 || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    if (left.span.size() + right.span.size() != best.size) continue;
    left.span.end = right.span.end;
    left.next = right.next;
    right.span = {};
    if (left.next >= 0) symbols[left.next].previous = best.position;
    Consider(text, left.previous, workspace);
    Consider(text, best.position, workspace);
  }
}

void SentencePieceBpe::Emit(std::string_view text, Span span, size_t before,
                            const Workspace& workspace, std::vector<Piece>& pieces) const {
  const int32_t id = pieces_.Find(span.In(text));
  if (id >= 0 && lexicon_.IsUnused(id)) {
    // Each part is shorter, so that no piece's length is exceeded in depth.
    if (const auto part = workspace.parts.find(id); part != workspace.parts.end()) {
      const int32_t middle = span.begin + part->second;
      Emit(text, {span.begin, middle}, before, workspace, pieces);
      Emit(text, {middle, span.end}, before, workspace, pieces);
      return;
    }
  }
  lexicon_.Emit(id < 0 ? lexicon_.unknown() : id, text, span, before, pieces);
}

}  // namespace thresher::text
