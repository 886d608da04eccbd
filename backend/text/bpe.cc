#include "backend/text/bpe.h"

#include <algorithm>

#include "backend/tensor/status.h"
#include "backend/text/byte_fallback.h"
#include "backend/text/byte_level.h"
#include "backend/text/unicode.h"

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
  model.unit_ = options.unit;
  model.bytes_.fill(-1);
  for (int byte = 0; byte < 256; ++byte) {
    const char text[] = {static_cast<char>(byte)};
    if (options.unit == BpeUnit::kByte) {
      model.bytes_[byte] = vocabulary.Find(SpellBytes({text, 1}));
      if (options.byte_fallback && model.bytes_[byte] < 0) {
        return Unimplemented("byte_fallback for a byte-level vocabulary that lacks byte {} ('{}')",
                             byte, SpellBytes({text, 1}));
      }
    } else if (options.byte_fallback) {
      model.bytes_[byte] = vocabulary.Find(ByteToken(static_cast<unsigned char>(byte)));
    }
  }
  if (options.unit == BpeUnit::kCharacter) {
    for (int32_t id = 0; id < vocabulary.size(); ++id) {
      const std::string_view token = vocabulary.Text(id);
      size_t end = 0;
      if (token.empty()) continue;
      const char32_t character = NextCharacter(token, end);
      if (end == token.size()) model.characters_.emplace(character, id);
    }
  }
  if (options.ignore_merges) {
    auto words = std::make_unique<Vocabulary>(vocabulary.size());
    for (int32_t id = 0; id < vocabulary.size(); ++id) {
      if (vocabulary.Text(id).empty()) continue;
      THRESHER_RETURN_IF_ERROR(words->Add(std::string(vocabulary.Text(id)), id));
    }
    model.words_ = std::move(words);
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
    if (const int32_t id = FindWord(word.In(text)); id >= 0) {
      pieces.push_back({id, word});
      continue;
    }
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

int32_t Bpe::FindWord(std::string_view word) const {
  if (words_ == nullptr) return -1;
  return words_->Find(unit_ == BpeUnit::kByte ? SpellBytes(word) : word);
}

void Bpe::Begin(std::string_view text, Span word, Workspace& workspace) const {
  auto& symbols = workspace.symbols;
  symbols.clear();
  const auto add = [&](int32_t id, Span span) {
    const auto position = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, span, position - 1, position + 1, false});
  };
  const auto byte_token = [&](int32_t i) { return bytes_[static_cast<unsigned char>(text[i])]; };
  bool fusing = false;
  for (Span unit = {word.begin, word.begin}; unit.begin < word.end; unit.begin = unit.end) {
    int32_t id = -1;
    if (unit_ == BpeUnit::kByte) {
      unit.end = unit.begin + 1;
      id = byte_token(unit.begin);
    } else {
      auto end = static_cast<size_t>(unit.begin);
      const auto character = characters_.find(NextCharacter(text, end));
      unit.end = static_cast<int32_t>(end);
      if (character != characters_.end()) id = character->second;
    }
    if (id >= 0) {
      add(id, unit);
      fusing = false;
      continue;
    }
    bool all_bytes = unit_ == BpeUnit::kCharacter;
    for (int32_t i = unit.begin; i < unit.end; ++i) all_bytes = all_bytes && byte_token(i) >= 0;
    if (all_bytes) {
      for (int32_t i = unit.begin; i < unit.end; ++i) add(byte_token(i), {i, i + 1});
      fusing = false;
    } else if (fusing) {
      symbols.back().span.end = unit.end;
    } else if (unknown_ >= 0) {
      add(unknown_, unit);
      fusing = fuse_unknown_;
    }
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
