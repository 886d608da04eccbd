#include "backend/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "backend/text/unicode.h"

namespace thresher::text {
namespace {

bool WordCharacterBefore(std::string_view text, size_t position) {
  return position > 0 && IsWordCharacter(PreviousCharacter(text, position));
}

bool WordCharacterAt(std::string_view text, size_t position) {
  return position < text.size() && IsWordCharacter(NextCharacter(text, position));
}

}  // namespace

void AddedTokenFinder::Add(std::string_view pattern, const AddedToken* token) {
  if (pattern.empty()) return;
  begins_[static_cast<unsigned char>(pattern[0])] = true;
  patterns_.Insert(pattern, static_cast<int32_t>(tokens_.size()));
  tokens_.push_back(token);
}

const AddedToken* AddedTokenFinder::FindAt(std::string_view text, size_t begin, size_t& end) const {
  const Trie::Match match = patterns_.LongestPrefix(text.substr(begin));
  end = begin + match.length;
  return match.number < 0 ? nullptr : tokens_[match.number];
}

std::vector<AddedTokenFinder::Segment> AddedTokenFinder::Split(std::string_view text) const {
  std::vector<Segment> segments;
  size_t done = 0;  // All before is in a segment.
  const auto emit = [&](size_t begin, size_t end, const AddedToken* token) {
    if (begin == end) return;
    segments.push_back({{static_cast<int32_t>(begin), static_cast<int32_t>(end)}, token});
  };
  for (size_t i = 0; i < text.size() && !tokens_.empty();) {
    size_t end = 0;
    const AddedToken* token = nullptr;
    if (begins_[static_cast<unsigned char>(text[i])]) token = FindAt(text, i, end);
    if (token == nullptr) {
      ++i;
      continue;
    }
    size_t begin = std::exchange(i, end);
    if (token->single_word && (WordCharacterBefore(text, begin) || WordCharacterAt(text, end))) {
      continue;
    }
    if (token->lstrip) {
      for (size_t space = begin; space > done && IsWhitespace(PreviousCharacter(text, space));) {
        begin = space;
      }
    }
    if (token->rstrip) {
      for (size_t space = end; space < text.size() && IsWhitespace(NextCharacter(text, space));) {
        end = space;
      }
    }
    emit(done, begin, nullptr);
    emit(begin, end, token);
    done = i = end;
  }
  emit(done, text.size(), nullptr);
  return segments;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const Normalizer* normalizer)
    : tokens_(std::move(tokens)) {
  for (const AddedToken& token : tokens_) {
    if (token.special) special_.insert(token.id);
    if (!token.normalized) {
      in_original_.Add(token.content, &token);
    } else if (normalizer == nullptr) {
      in_normalized_.Add(token.content, &token);
    } else {
      in_normalized_.Add(normalizer->Normalize(token.content, 0).text(), &token);
    }
  }
}

}  // namespace thresher::text
