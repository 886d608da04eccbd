#include "backend/text/sentencepiece_lexicon.h"

#include <algorithm>

#include "backend/tensor/status.h"
#include "backend/text/byte_fallback.h"

namespace thresher::text {

Trie UserDefinedPieces(const SentencePieceFile& model) {
  Trie pieces;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& piece = model.pieces[id];
    if (piece.type == SentencePieceFile::Type::kUserDefined) {
      pieces.Insert(piece.text, static_cast<int32_t>(id));
    }
  }
  return pieces;
}

absl::StatusOr<SentencePieceLexicon> SentencePieceLexicon::Create(const SentencePieceFile& model) {
  SentencePieceLexicon lexicon;
  lexicon.byte_fallback_ = model.byte_fallback;
  lexicon.bytes_.fill(-1);
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    const auto id = static_cast<int32_t>(i);
    lexicon.types_.push_back(piece.type);
    lexicon.scores_.push_back(piece.score);
    if (piece.type == Type::kUnknown) {
      if (lexicon.unknown_ >= 0) {
        return InvalidArgument("pieces {} and {} are both of type unknown", lexicon.unknown_, id);
      }
      lexicon.unknown_ = id;
    }
    if (piece.type == Type::kByte) {
      const auto byte = ParseByteToken(piece.text);
      if (!byte) return InvalidArgument("piece {}: '{:.100}' is no byte", id, piece.text);
      lexicon.bytes_[*byte] = id;
    }
  }
  if (lexicon.unknown_ < 0) return InvalidArgument("no piece is of type unknown");
  if (const auto missing = std::ranges::find(lexicon.bytes_, -1);
      model.byte_fallback && missing != lexicon.bytes_.end()) {
    const auto byte = static_cast<unsigned char>(missing - lexicon.bytes_.begin());
    return InvalidArgument("byte_fallback is set, but there is no piece {}", ByteToken(byte));
  }
  return lexicon;
}

void SentencePieceLexicon::Emit(int32_t id, std::string_view text, Span span, size_t before,
                                std::vector<Piece>& pieces) const {
  if (id != unknown_) {
    pieces.push_back({id, span});
  } else if (byte_fallback_) {
    for (int32_t i = span.begin; i < span.end; ++i) {
      pieces.push_back({bytes_[static_cast<unsigned char>(text[i])], {i, i + 1}});
    }
  } else if (pieces.size() > before && pieces.back().id == unknown_) {
    pieces.back().span.end = span.end;
  } else {
    pieces.push_back({id, span});
  }
}

}  // namespace thresher::text
