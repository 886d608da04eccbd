// Tokens and their ids, both ways.
#ifndef THRESHER_BACKEND_TEXT_VOCABULARY_H_
#define THRESHER_BACKEND_TEXT_VOCABULARY_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"

namespace thresher::text {

class Vocabulary {
 public:
  /// For about `expected` tokens. Memory is bounded by it: an id may not be larger than twice that
  /// and a margin.
  explicit Vocabulary(size_t expected);

  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  /// INVALID_ARGUMENT for a token or an id that is there already, a negative or absurdly large id.
  absl::Status Add(std::string token, int64_t id);

  /// -1 if there is no such token.
  int32_t Find(std::string_view token) const;
  /// Empty if there is no such id.
  std::string_view Text(int32_t id) const;
  bool Has(int32_t id) const;
  /// One more than the largest id.
  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  int64_t id_limit_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::vector<std::string_view> tokens_;  // By id, into the keys of ids_; no data where none is.
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_VOCABULARY_H_
