// Byte-pair encoding: the neighbours whose merge ranks first are merged, until none can be.
#ifndef THRESHER_BACKEND_TEXT_BPE_H_
#define THRESHER_BACKEND_TEXT_BPE_H_

#include <array>
#include <cstdint>
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

struct BpeOptions {
  std::string unknown_token;  // For a byte that is no token; empty: such bytes are left out.
  bool fuse_unknown = false;  // One unknown token for a run of such bytes.
};

/// Byte-level BPE: words begin as one token for each byte, spelled as byte_level.h says.
/// n log n steps for a word of n bytes.
class Bpe final : public TokenModel {
 public:
  /// The merges in the order of their rank. INVALID_ARGUMENT if one names a token that is not in
  /// the vocabulary (says which), or if the unknown token is not. Does not keep the vocabulary.
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
  // Fills the workspace with the tokens of the word's bytes.
  void Begin(std::string_view text, Span word, Workspace& workspace) const;
  // Merges what can be merged.
  void MergeAll(Workspace& workspace) const;

  std::array<int32_t, 256> bytes_{};  // The token of each byte; -1 if there is none.
  absl::flat_hash_map<std::pair<int32_t, int32_t>, Merge> merges_;
  int32_t unknown_ = -1;
  bool fuse_unknown_ = false;
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_BPE_H_
