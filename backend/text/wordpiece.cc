#include "backend/text/wordpiece.h"

#include "backend/tensor/status.h"
#include "backend/text/unicode.h"

namespace thresher::text {

absl::StatusOr<WordPiece> WordPiece::Create(const Vocabulary& vocabulary,
                                            const WordPieceOptions& options) {
  WordPiece model;
  model.unknown_ = vocabulary.Find(options.unknown_token);
  if (model.unknown_ < 0) {
    return InvalidArgument("the vocabulary has no unknown token '{}'", options.unknown_token);
  }
  model.max_characters_per_word_ = options.max_characters_per_word;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (const std::string_view token = vocabulary.Text(id); !token.empty()) {
      model.tokens_.Insert(token, id);
    }
  }
  model.continuing_ = Trie::kRoot;
  for (const char byte : options.continuing_prefix) {
    if (model.continuing_ == Trie::kNoNode) break;
    model.continuing_ = model.tokens_.Step(model.continuing_, byte);
  }
  return model;
}

void WordPiece::Tokenize(std::string_view text, std::span<const Span> words, size_t enough,
                         std::vector<Piece>& pieces) const {
  const size_t before = pieces.size();
  for (const Span& word : words) {
    if (pieces.size() - before >= enough) return;
    const size_t mark = pieces.size();
    if (!TokenizeWord(text, word, pieces)) {
      pieces.resize(mark);
      pieces.push_back({unknown_, word});
    }
  }
}

bool WordPiece::TokenizeWord(std::string_view text, Span word, std::vector<Piece>& pieces) const {
  // Only long words need counting: a word has no more characters than bytes.
  if (static_cast<size_t>(word.size()) > max_characters_per_word_ &&
      CountCharacters(word.In(text)) > max_characters_per_word_) {
    return false;
  }
  uint32_t first = Trie::kRoot;
  for (int32_t begin = word.begin; begin < word.end; first = continuing_) {
    uint32_t node = first;
    Piece longest = {-1, {begin, begin}};
    for (int32_t end = begin; node != Trie::kNoNode; ++end) {
      // Tokens are UTF-8 and begin at a character, so they end at one.
      if (const int32_t id = tokens_.Number(node); id >= 0 && end > begin) {
        longest = {id, {begin, end}};
      }
      if (end == word.end) break;
      node = tokens_.Step(node, text[end]);
    }
    if (longest.id < 0) return false;
    pieces.push_back(longest);
    begin = longest.span.end;
  }
  return true;
}

}  // namespace thresher::text
