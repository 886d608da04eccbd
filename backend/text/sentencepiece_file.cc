#include "backend/text/sentencepiece_file.h"

#include <bit>
#include <cmath>
#include <utility>

#include "backend/tensor/status.h"
#include "backend/text/unicode.h"

namespace thresher::text {
namespace {

using Kind = SentencePieceFile::Kind;
using Piece = SentencePieceFile::Piece;
using Type = SentencePieceFile::Type;

// Real pieces have a few characters; the work for a text grows with the longest.
constexpr size_t kLongestPiece = 1024;

// A field of a protocol buffer: a number, or bytes that may be a message themselves.
struct Field {
  uint32_t number = 0;
  uint64_t value = 0;
  std::string_view bytes;
};

// Reads the fields of one message. `file` is the whole that it is a part of, to say where.
class FieldReader {
 public:
  FieldReader(std::string_view file, std::string_view message) : file_(file), rest_(message) {}

  bool done() const { return rest_.empty(); }

  absl::StatusOr<Field> Next() {
    Field field;
    THRESHER_ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    field.number = static_cast<uint32_t>(tag >> 3);
    switch (tag & 7) {
      case 0: {
        THRESHER_ASSIGN_OR_RETURN(field.value, Varint());
        return field;
      }
      case 1:
      case 5: {
        const size_t size = (tag & 7) == 1 ? 8 : 4;
        THRESHER_ASSIGN_OR_RETURN(const std::string_view bytes, Bytes(size));
        for (size_t i = 0; i < size; ++i) {
          field.value |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
        }
        return field;
      }
      case 2: {
        THRESHER_ASSIGN_OR_RETURN(const uint64_t size, Varint());
        THRESHER_ASSIGN_OR_RETURN(field.bytes, Bytes(size));
        return field;
      }
      default:
        return Broken();
    }
  }

 private:
  absl::Status Broken() const {
    return InvalidArgument("byte {}: not a SentencePiece model, or cut off",
                           rest_.data() - file_.data());
  }

  absl::StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (size_t i = 0; i < 10 && i < rest_.size(); ++i) {
      const auto byte = static_cast<unsigned char>(rest_[i]);
      value |= uint64_t{byte & 0x7Fu} << (7 * i);
      if (byte >= 0x80) continue;
      rest_.remove_prefix(i + 1);
      return value;
    }
    return Broken();
  }

  absl::StatusOr<std::string_view> Bytes(uint64_t size) {
    if (size > rest_.size()) return Broken();
    const std::string_view bytes = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return bytes;
  }

  const std::string_view file_;
  std::string_view rest_;
};

template <typename Visit>
absl::Status ForEachField(std::string_view file, std::string_view message, Visit visit) {
  for (FieldReader reader(file, message); !reader.done();) {
    THRESHER_ASSIGN_OR_RETURN(const Field field, reader.Next());
    THRESHER_RETURN_IF_ERROR(visit(field));
  }
  return absl::OkStatus();
}

absl::StatusOr<Piece> ParsePiece(std::string_view file, std::string_view message) {
  Piece piece;
  THRESHER_RETURN_IF_ERROR(ForEachField(file, message, [&](const Field& field) -> absl::Status {
    if (field.number == 1) piece.text = field.bytes;
    if (field.number == 2) piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    if (field.number == 3) {
      if (field.value < 1 || field.value > 6) {
        return InvalidArgument("the type {} is unknown", field.value);
      }
      piece.type = static_cast<Type>(field.value);
    }
    return absl::OkStatus();
  }));
  if (piece.text.empty() || piece.text.size() > kLongestPiece) {
    return InvalidArgument("has {} bytes, expected 1 to {}", piece.text.size(), kLongestPiece);
  }
  if (FindInvalidUtf8(piece.text)) return InvalidArgument("is not valid UTF-8");
  if (!std::isfinite(piece.score)) {
    return InvalidArgument("('{:.100}') has the score {}", piece.text, piece.score);
  }
  return piece;
}

absl::Status ParseTrainerSpec(std::string_view file, std::string_view message,
                              SentencePieceFile& model) {
  return ForEachField(file, message, [&](const Field& field) -> absl::Status {
    switch (field.number) {
      case 3:
        if (field.value != 1 && field.value != 2) {
          return Unimplemented("model type {}: only unigram (1) and BPE (2) are supported",
                               field.value);
        }
        model.kind = static_cast<Kind>(field.value);
        break;
      case 24:
        model.treat_whitespace_as_suffix = field.value != 0;
        break;
      case 35:
        model.byte_fallback = field.value != 0;
        break;
      case 46:
        model.bos_piece = field.bytes;
        break;
      case 47:
        model.eos_piece = field.bytes;
        break;
      default:
        break;
    }
    return absl::OkStatus();
  });
}

absl::Status ParseNormalizerSpec(std::string_view file, std::string_view message,
                                 SentencePieceFile& model) {
  return ForEachField(file, message, [&](const Field& field) {
    if (field.number == 2) model.character_map = field.bytes;
    if (field.number == 3) model.add_dummy_prefix = field.value != 0;
    if (field.number == 4) model.remove_extra_whitespaces = field.value != 0;
    if (field.number == 5) model.escape_whitespaces = field.value != 0;
    return absl::OkStatus();
  });
}

absl::Status ParseModel(std::string_view file, SentencePieceFile& model) {
  return ForEachField(file, file, [&](const Field& field) -> absl::Status {
    switch (field.number) {
      case 1: {
        auto piece = ParsePiece(file, field.bytes);
        if (!piece.ok()) {
          return Annotate(piece.status(), fmt::format("piece {}", model.pieces.size()));
        }
        model.pieces.push_back(*std::move(piece));
        return absl::OkStatus();
      }
      case 2:
        return ParseTrainerSpec(file, field.bytes, model);
      case 3:
        return ParseNormalizerSpec(file, field.bytes, model);
      case 5: {
        SentencePieceFile denormalizer;
        THRESHER_RETURN_IF_ERROR(ParseNormalizerSpec(file, field.bytes, denormalizer));
        if (denormalizer.character_map.empty()) return absl::OkStatus();
        return Unimplemented("a denormalizer is not supported");
      }
      default:
        return absl::OkStatus();
    }
  });
}

}  // namespace

absl::StatusOr<SentencePieceFile> ParseSentencePieceFile(std::string_view contents,
                                                         std::string_view name) {
  SentencePieceFile model;
  if (auto status = ParseModel(contents, model); !status.ok()) return Annotate(status, name);
  if (model.pieces.empty()) return InvalidArgument("{}: the model has no pieces", name);
  return model;
}

}  // namespace thresher::text
