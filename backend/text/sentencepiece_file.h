// The file format of SentencePiece models, `tokenizer.model`: a protocol buffer.
//
// It is read here and not by libsentencepiece: Debian's has a Protobuf of its own inside, whose
// symbols are visible, and a process that also has the Protobuf of gRPC does not survive the two.
#ifndef THRESHER_BACKEND_TEXT_SENTENCEPIECE_FILE_H_
#define THRESHER_BACKEND_TEXT_SENTENCEPIECE_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace thresher::text {

/// How models spell a space.
inline constexpr char32_t kSpaceMark = U'\u2581';

/// The parts of a model that tokenizing needs; numbers as in the format.
struct SentencePieceFile {
  enum class Kind { kUnigram = 1, kBpe = 2 };
  enum class Type {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,      // Never found in a text.
    kUserDefined = 4,  // Always found in a text.
    kUnused = 5,       // Known, but only as a step of merging.
    kByte = 6,         // byte_fallback.h
  };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::kNormal;
  };

  std::vector<Piece> pieces;  // By id.
  Kind kind = Kind::kUnigram;
  bool byte_fallback = false;  // What is unknown becomes its bytes.
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";

  // Normalizing.
  std::string character_map;  // A CharacterMap; empty: none.
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool treat_whitespace_as_suffix = false;
};

/// INVALID_ARGUMENT, with the file's `name` and the place: what is no model, a piece that is not
/// UTF-8 or has no or more than 1024 bytes, a score that is not finite. UNIMPLEMENTED: model types
/// other than the two, a denormalizer.
absl::StatusOr<SentencePieceFile> ParseSentencePieceFile(std::string_view contents,
                                                         std::string_view name);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_SENTENCEPIECE_FILE_H_
