// Byte-pair encoding: the neighbours whose merge ranks first are merged, until none can be.
#ifndef THRESHER_BACKEND_TEXT_BPE_H_
#define THRESHER_BACKEND_TEXT_BPE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "backend/text/token_model.h"
#include "backend/text/vocabulary.h"

namespace thresher::text {

/// What a word is made of before the first merge.
enum class BpeUnit {
  kByte,       // One token for each byte, spelled as byte_level.h says.
  kCharacter,  // One token for each character.
};

struct BpeOptions {
  BpeUnit unit = BpeUnit::kByte;
  std::string unknown_token;  // For a unit that is no token; empty: such units are left out.
  bool fuse_unknown = false;  // One unknown token for a run of such units.
  /// A character that is no token becomes its bytes (byte_fallback.h) if all of these are.
  bool byte_fallback = false;
  bool ignore_merges = false;  // A word that is a token is that token, whatever the merges say.
};

/// n log n steps for a word of n bytes.
class Bpe final : public TokenModel {
 public:
  /// The merges in the order of their rank. INVALID_ARGUMENT if one names a token that is not in
  /// the vocabulary (says which), or if the unknown token is not; UNIMPLEMENTED: byte fallback of
  /// bytes. Does not keep the vocabulary.
  static absl::StatusOr<Bpe> Create(const Vocabulary& vocabulary,
                                    std::span<const std::pair<std::string, std::string>> merges,
                                    const BpeOptions& options);

  void Tokenize(std::string_view text, std::span<const Span> words, size_t enough,
                std::vector<Piece>& pieces) const override;

 private:
  struct Merge {
    int32_t rank;
    int32_t result;
  };
  struct Symbol;
  struct Candidate;
  struct Workspace;

  Bpe() = default;

  const Merge* FindMerge(int32_t left, int32_t right) const;
  // The token of a whole word, if merges are to be ignored for it; else -1.
  int32_t FindWord(std::string_view word) const;
  // Fills the workspace with the tokens of the word's units.
  void Begin(std::string_view text, Span word, Workspace& workspace) const;
  // Merges what can be merged.
  void MergeAll(Workspace& workspace) const;

  BpeUnit unit_ = BpeUnit::kByte;
  std::array<int32_t, 256> bytes_{};  // The token of each byte; -1 if there is none.
  absl::flat_hash_map<char32_t, int32_t> characters_;  // Empty if the unit is a byte.
  std::unique_ptr<const Vocabulary> words_;            // Null: words are not looked up.
  absl::flat_hash_map<std::pair<int32_t, int32_t>, Merge> merges_;
  int32_t unknown_ = -1;
  bool fuse_unknown_ = false;
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_BPE_H_
