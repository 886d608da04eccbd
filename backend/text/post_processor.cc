#include "backend/text/post_processor.h"

#include <algorithm>

namespace thresher::text {

PostProcessor BertPostProcessor(int32_t cls, int32_t sep) {
  PostProcessor result;
  result.single = {{-1, {cls}, 0}, {0, {}, 0}, {-1, {sep}, 0}};
  result.pair = {{-1, {cls}, 0}, {0, {}, 0}, {-1, {sep}, 0}, {1, {}, 1}, {-1, {sep}, 1}};
  return result;
}

PostProcessor RobertaPostProcessor(int32_t cls, int32_t sep, bool trim_offsets) {
  PostProcessor result;
  result.single = {{-1, {cls}, 0}, {0, {}, 0}, {-1, {sep}, 0}};
  result.pair = {{-1, {cls}, 0}, {0, {}, 0}, {-1, {sep, sep}, 0}, {1, {}, 0}, {-1, {sep}, 0}};
  result.trim_offsets = trim_offsets;
  return result;
}

PostProcessor AroundEachText(std::optional<int32_t> before, std::optional<int32_t> after) {
  const auto around = [&](int sequence, Template& parts) {
    if (before) parts.push_back({-1, {*before}, sequence});
    parts.push_back({sequence, {}, sequence});
    if (after) parts.push_back({-1, {*after}, sequence});
  };
  PostProcessor result;
  result.single.clear();
  result.pair.clear();
  around(0, result.single);
  around(0, result.pair);
  around(1, result.pair);
  return result;
}

int64_t CountSpecial(const Template& parts) {
  int64_t count = 0;
  for (const TemplatePart& part : parts) {
    if (part.sequence < 0) count += static_cast<int64_t>(part.ids.size());
  }
  return count;
}

std::pair<int64_t, int64_t> LongestFirst(int64_t first, int64_t second, int64_t limit) {
  if (first + second <= limit) return {first, second};
  const int64_t shorter = std::min(first, second);
  int64_t keep_shorter = shorter;
  int64_t keep_longer = limit - shorter;
  if (keep_longer < keep_shorter) {
    keep_shorter = limit / 2;
    keep_longer = limit - keep_shorter;
  }
  return first > second ? std::pair(keep_longer, keep_shorter)
                        : std::pair(keep_shorter, keep_longer);
}

std::vector<EncodedToken> Assemble(const Template& parts, bool add_special,
                                   const std::vector<EncodedToken>& first,
                                   const std::vector<EncodedToken>& second) {
  std::vector<EncodedToken> result;
  result.reserve(first.size() + second.size() + static_cast<size_t>(CountSpecial(parts)));
  for (const TemplatePart& part : parts) {
    if (part.sequence < 0) {
      if (!add_special) continue;
      for (const int32_t id : part.ids) result.push_back({.id = id, .type_id = part.type_id});
      continue;
    }
    const size_t begin = result.size();
    const auto& tokens = part.sequence == 0 ? first : second;
    result.insert(result.end(), tokens.begin(), tokens.end());
    for (size_t i = begin; i < result.size(); ++i) {
      result[i].type_id = part.type_id;
      result[i].sequence = part.sequence;
    }
  }
  return result;
}

}  // namespace thresher::text
