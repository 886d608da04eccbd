// Added tokens: found in the text itself, before any rule cuts it.
#ifndef THRESHER_BACKEND_TEXT_ADDED_TOKENS_H_
#define THRESHER_BACKEND_TEXT_ADDED_TOKENS_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "backend/text/normalizer.h"
#include "backend/text/span.h"
#include "backend/text/trie.h"

namespace thresher::text {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // Only where no word character touches it.
  bool lstrip = false;       // Takes the white space before it.
  bool rstrip = false;       // Takes the white space after it.
  bool normalized = false;   // Looked for, normalized itself, in the normalized text.
  bool special = false;      // Left out of decoded text.
};

/// Finds a set of tokens in a text: leftmost first, then longest.
class AddedTokenFinder {
 public:
  struct Segment {
    Span span;
    const AddedToken* token;  // Null: text between tokens.
  };

  /// `pattern` is what to look for; `token` must outlive this.
  void Add(std::string_view pattern, const AddedToken* token);

  /// Parts the text into tokens and what is between them; no segment is empty. Linear in the text
  /// for a given set.
  std::vector<Segment> Split(std::string_view text) const;

 private:
  const AddedToken* FindAt(std::string_view text, size_t begin, size_t& end) const;

  std::array<bool, 256> begins_{};  // Whether a pattern begins with the byte.
  Trie patterns_;
  std::vector<const AddedToken*> tokens_;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  /// `normalizer` may be null.
  AddedTokens(std::vector<AddedToken> tokens, const Normalizer* normalizer);
  AddedTokens(AddedTokens&&) = default;
  AddedTokens& operator=(AddedTokens&&) = default;

  /// A token that is special too, but never found in a text.
  void AddSpecial(int32_t id) { special_.insert(id); }

  const AddedTokenFinder& in_original() const { return in_original_; }
  const AddedTokenFinder& in_normalized() const { return in_normalized_; }
  bool IsSpecial(int32_t id) const { return special_.contains(id); }

 private:
  std::vector<AddedToken> tokens_;
  AddedTokenFinder in_original_;
  AddedTokenFinder in_normalized_;
  std::unordered_set<int32_t> special_;
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_ADDED_TOKENS_H_
