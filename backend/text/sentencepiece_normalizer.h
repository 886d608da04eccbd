// SentencePiece's normalizer: rules for characters, and what becomes of white space.
#ifndef THRESHER_BACKEND_TEXT_SENTENCEPIECE_NORMALIZER_H_
#define THRESHER_BACKEND_TEXT_SENTENCEPIECE_NORMALIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/text/normalizer.h"
#include "backend/text/sentencepiece_file.h"

namespace thresher::text {

/// A precompiled character map: strings and what each is replaced by. In the file it is a double
/// array (a trie whose node is found at its parent's offset XOR the byte) and the replacements,
/// each with a zero byte at its end.
class CharacterMap {
 public:
  CharacterMap() = default;  // Nothing is replaced.
  /// INVALID_ARGUMENT unless all replacements that can be reached are there and are UTF-8.
  static absl::StatusOr<CharacterMap> Create(std::string_view contents);

  struct Match {
    size_t length;
    std::string_view replacement;
  };
  /// The longest string of the map that the text begins with.
  std::optional<Match> FindLongest(std::string_view text) const;

  /// At most how many bytes come from one byte of a string that is replaced.
  int64_t growth() const { return growth_; }

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};

  // The node that `byte` leads to from the node at `position`, and whether a string ends there.
  struct Node {
    uint32_t position = 0;
    bool is_end = false;
  };
  Node Root() const;
  std::optional<Node> Step(uint32_t position, unsigned char byte) const;
  absl::StatusOr<std::string_view> ReplacementAt(uint32_t position) const;
  absl::Status Check();

  std::vector<uint32_t> units_;
  std::string replacements_;
  int64_t growth_ = 1;
};

/// INVALID_ARGUMENT if the character map is broken. User-defined pieces are not touched.
absl::StatusOr<std::unique_ptr<Normalizer>> MakeSentencePieceNormalizer(
    const SentencePieceFile& model);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_SENTENCEPIECE_NORMALIZER_H_
