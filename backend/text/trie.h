// A set of byte strings, each with a number, walked byte by byte.
#ifndef THRESHER_BACKEND_TEXT_TRIE_H_
#define THRESHER_BACKEND_TEXT_TRIE_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace thresher::text {

class Trie {
 public:
  static constexpr uint32_t kRoot = 0;
  static constexpr uint32_t kNoNode = ~uint32_t{0};

  /// A number is not negative. The first of two equal strings keeps its number.
  void Insert(std::string_view text, int32_t number) {
    uint32_t node = kRoot;
    for (const char byte : text) {
      const auto fresh = static_cast<uint32_t>(numbers_.size());
      node = edges_.try_emplace(Edge(node, byte), fresh).first->second;
      if (node == fresh) numbers_.push_back(-1);
    }
    if (numbers_[node] < 0) numbers_[node] = number;
  }

  struct Match {
    size_t length = 0;
    int32_t number = -1;  // None: -1.
  };
  /// The longest string of the set that the text begins with.
  Match LongestPrefix(std::string_view text) const {
    Match match;
    uint32_t node = kRoot;
    for (size_t i = 0; i < text.size(); ++i) {
      node = Step(node, text[i]);
      if (node == kNoNode) break;
      if (numbers_[node] >= 0) match = {i + 1, numbers_[node]};
    }
    return match;
  }

  /// Where `byte` leads to from `node`; kNoNode if nowhere.
  uint32_t Step(uint32_t node, char byte) const {
    const auto edge = edges_.find(Edge(node, byte));
    return edge == edges_.end() ? kNoNode : edge->second;
  }

  /// The number of the string that ends at this node; -1 if none does.
  int32_t Number(uint32_t node) const { return numbers_[node]; }

 private:
  static uint64_t Edge(uint32_t node, char byte) {
    return uint64_t{node} << 8 | static_cast<unsigned char>(byte);
  }

  absl::flat_hash_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> numbers_ = {-1};
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_TRIE_H_
