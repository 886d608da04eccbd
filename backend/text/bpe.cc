#include "backend/text/bpe.h"

#include <algorithm>

#include "backend/tensor/status.h"
#include "backend/text/byte_level.h"

namespace thresher::text {

// A token of the word, in a doubly linked list by index.
struct Bpe::Symbol {
  int32_t id;
  Span span;
  int32_t previous;
  int32_t next;
  bool merged;  // Into the one before: no longer in the list.
};

// A merge of the symbol at `position` with the next one. Stale if the pair has changed since.
struct Bpe::Candidate {
  int32_t rank;
  int32_t position;
  int32_t result;

  // Heaps of the standard library have the largest on top: the best is the largest.
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  }
};

struct Bpe::Workspace {
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

absl::StatusOr<Bpe> Bpe::Create(const Vocabulary& vocabulary,
                                std::span<const std::pair<std::string, std::string>> merges,
                                const BpeOptions& options) {
  Bpe model;
  if (!options.unknown_token.empty()) {
    model.unknown_ = vocabulary.Find(options.unknown_token);
    if (model.unknown_ < 0) {
      return InvalidArgument("the vocabulary has no unknown token '{}'", options.unknown_token);
    }
  }
  model.fuse_unknown_ = options.fuse_unknown;
  for (int byte = 0; byte < 256; ++byte) {
    const char text[] = {static_cast<char>(byte)};
    model.bytes_[byte] = vocabulary.Find(SpellBytes({text, 1}));
  }
  model.merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string& left = merges[rank].first;
    const std::string& right = merges[rank].second;
    const auto find = [&](const std::string& token) -> absl::StatusOr<int32_t> {
      const int32_t id = vocabulary.Find(token);
      if (id >= 0) return id;
      return InvalidArgument(
          "merge {} ('{:.100}' '{:.100}') names '{:.100}', which is not in the vocabulary", rank,
          left, right, token);
    };
    THRESHER_ASSIGN_OR_RETURN(const int32_t left_id, find(left));
    THRESHER_ASSIGN_OR_RETURN(const int32_t right_id, find(right));
    THRESHER_ASSIGN_OR_RETURN(const int32_t result, find(left + right));
    // Of a pair that is there twice the last counts, as in the reference implementation.
    model.merges_[{left_id, right_id}] = {static_cast<int32_t>(rank), result};
  }
  return model;
}

void Bpe::Tokenize(std::string_view text, std::span<const Span> words, size_t enough,
                   std::vector<Piece>& pieces) const {
  const size_t before = pieces.size();
  Workspace workspace;
  for (const Span& word : words) {
    if (pieces.size() - before >= enough) return;
    Begin(text, word, workspace);
    MergeAll(workspace);
    for (const Symbol& symbol : workspace.symbols) {
      if (!symbol.merged) pieces.push_back({symbol.id, symbol.span});
    }
  }
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right) const {
  const auto merge = merges_.find({left, right});
  return merge == merges_.end() ? nullptr : &merge->second;
}

void Bpe::Begin(std::string_view text, Span word, Workspace& workspace) const {
  auto& symbols = workspace.symbols;
  symbols.clear();
  bool fusing = false;
  for (int32_t i = word.begin; i < word.end; ++i) {
    int32_t id = bytes_[static_cast<unsigned char>(text[i])];
    if (id < 0) {
      if (fusing) symbols.back().span.end = i + 1;
      if (fusing || unknown_ < 0) continue;
      id = unknown_;
      fusing = fuse_unknown_;
    } else {
      fusing = false;
    }
    const auto position = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, {i, i + 1}, position - 1, position + 1, false});
  }
  if (!symbols.empty()) symbols.back().next = -1;
}

void Bpe::MergeAll(Workspace& workspace) const {
  std::vector<Symbol>& symbols = workspace.symbols;
  std::vector<Candidate>& heap = workspace.heap;
  heap.clear();
  const auto consider = [&](int32_t position) {
    const Symbol& symbol = symbols[position];
    if (symbol.next < 0) return;
    if (const Merge* merge = FindMerge(symbol.id, symbols[symbol.next].id)) {
      heap.push_back({merge->rank, position, merge->result});
      std::push_heap(heap.begin(), heap.end());
    }
  };
  for (size_t i = 0; i < symbols.size(); ++i) consider(static_cast<int32_t>(i));
  while (!heap.empty()) {
    const Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
    Symbol& left = symbols[best.position];
    if (left.merged || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->result != best.result) continue;
    left.id = best.result;
    left.span.end = right.span.end;
    left.next = right.next;
    right.merged = true;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    if (left.previous >= 0) consider(left.previous);
    consider(best.position);
  }
}

}  // namespace thresher::text
