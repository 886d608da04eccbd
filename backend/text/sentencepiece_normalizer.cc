#include "backend/text/sentencepiece_normalizer.h"

#include <algorithm>
#include <utility>

#include "backend/tensor/status.h"
#include "backend/text/sentencepiece_lexicon.h"
#include "backend/text/unicode.h"

namespace thresher::text {
namespace {

// The parts of a double array's unit.
constexpr uint32_t kIsValue = uint32_t{1} << 31;
constexpr uint32_t Label(uint32_t unit) { return unit & (kIsValue | 0xFF); }
constexpr bool HasValue(uint32_t unit) { return (unit >> 8 & 1) != 0; }
constexpr uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }

uint32_t ReadUint32(std::string_view bytes) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

class SentencePieceNormalizer final : public Normalizer {
 public:
  SentencePieceNormalizer(const SentencePieceFile& model, CharacterMap map)
      : map_(std::move(map)),
        user_defined_(UserDefinedPieces(model)),
        space_(model.escape_whitespaces ? kSpaceMark : U' '),
        dummy_prefix_(model.add_dummy_prefix && !model.treat_whitespace_as_suffix),
        dummy_suffix_(model.add_dummy_prefix && model.treat_whitespace_as_suffix),
        remove_extra_(model.remove_extra_whitespaces) {}

  void Apply(Characters& characters) const override {
    const std::string text = AlignedText(characters).text();
    Characters result;
    result.reserve(characters.size() + 1);
    if (dummy_prefix_ && !remove_extra_ && !characters.empty()) {
      const int32_t begin = characters.front().source.begin;
      result.push_back({space_, {begin, begin}});
    }
    bool is_blank = remove_extra_ || characters.empty();
    bool after_space = remove_extra_;  // Whether spaces are to be dropped.
    size_t byte = 0;
    for (size_t i = 0; i < characters.size();) {
      const Prefix prefix = NormalizePrefix(std::string_view(text).substr(byte));
      const size_t begin = i;
      for (const size_t end = byte + prefix.length; byte < end; ++i) NextCharacter(text, byte);
      const Span whole = {characters[begin].source.begin, characters[i - 1].source.end};
      if (prefix.normalized != " ") is_blank = false;
      if (prefix.normalized.empty()) continue;
      size_t original = begin;  // Of a character that stays what it is.
      for (size_t k = 0; k < prefix.normalized.size(); ++original) {
        const char32_t c = NextCharacter(prefix.normalized, k);
        const Span source = prefix.replaced ? whole : characters[original].source;
        if (c == U' ' && after_space) continue;
        if (c != U' ') after_space = false;
        if (result.empty() && dummy_prefix_) {
          result.push_back({space_, {source.begin, source.begin}});
        }
        result.push_back({c == U' ' ? space_ : c, source});
      }
      after_space = remove_extra_ && prefix.normalized.back() == ' ';
    }
    if (remove_extra_) {
      while (!result.empty() && result.back().code == space_) result.pop_back();
    }
    if (dummy_suffix_ && !is_blank) {
      const int32_t end = result.empty() ? characters.back().source.end : result.back().source.end;
      result.push_back({space_, {end, end}});
    }
    characters = std::move(result);
  }

  bool ApplyInPlace(std::string& ascii) const override { return ascii.empty(); }
  // A space becomes three bytes, and three more are put before or after a text.
  int64_t growth() const override { return 3 * map_.growth() + 3; }

 private:
  struct Prefix {
    size_t length;
    std::string_view normalized;
    bool replaced = false;
  };

  // What the beginning of the text becomes.
  Prefix NormalizePrefix(std::string_view text) const {
    if (const size_t length = user_defined_.LongestPrefix(text).length; length > 0) {
      return {length, text.substr(0, length)};
    }
    const auto match = map_.FindLongest(text);
    // A string of the map may end within a character; texts that it could stand for are not UTF-8.
    if (match && (match->length == text.size() || !IsContinuationByte(text[match->length]))) {
      return {match->length, match->replacement, true};
    }
    size_t length = 0;
    NextCharacter(text, length);
    return {length, text.substr(0, length)};
  }

  const CharacterMap map_;
  const Trie user_defined_;
  const char32_t space_;
  const bool dummy_prefix_;
  const bool dummy_suffix_;
  const bool remove_extra_;
};

}  // namespace

absl::StatusOr<CharacterMap> CharacterMap::Create(std::string_view contents) {
  CharacterMap map;
  if (contents.empty()) return map;
  const uint32_t size = contents.size() < 4 ? kNone : ReadUint32(contents);
  if (size > contents.size() - std::min<size_t>(4, contents.size()) || size < 4 || size % 4 != 0) {
    return InvalidArgument("the character map has {} bytes, not what its header says",
                           contents.size());
  }
  map.units_.reserve(size / 4);
  for (size_t i = 0; i < size / 4; ++i) {
    map.units_.push_back(ReadUint32(contents.substr(4 + 4 * i)));
  }
  map.replacements_ = contents.substr(4 + size);
  THRESHER_RETURN_IF_ERROR(map.Check());
  return map;
}

CharacterMap::Node CharacterMap::Root() const { return {Offset(units_[0]), false}; }

std::optional<CharacterMap::Node> CharacterMap::Step(uint32_t position, unsigned char byte) const {
  const uint32_t child = position ^ byte;
  if (byte == 0 || child >= units_.size() || Label(units_[child]) != byte) return std::nullopt;
  return Node{child ^ Offset(units_[child]), HasValue(units_[child])};
}

absl::StatusOr<std::string_view> CharacterMap::ReplacementAt(uint32_t position) const {
  if (position < units_.size()) {
    const size_t begin = units_[position] & ~kIsValue;
    const size_t end = replacements_.find('\0', begin);
    if (end != std::string::npos) {
      return std::string_view(replacements_).substr(begin, end - begin);
    }
  }
  return InvalidArgument("the character map names a replacement that is not there");
}

absl::Status CharacterMap::Check() {
  // Breadth first: a node that several strings share is met with the shortest of them. Nodes with
  // the same position have the same children.
  struct Visit {
    uint32_t position;
    int64_t depth;
  };
  std::vector<Visit> queue = {{Root().position, 0}};
  std::vector<bool> seen(units_.size());
  for (size_t i = 0; i < queue.size(); ++i) {
    const auto [position, depth] = queue[i];
    for (int byte = 1; byte < 256; ++byte) {
      const auto child = Step(position, static_cast<unsigned char>(byte));
      if (!child) continue;
      const uint32_t unit = position ^ static_cast<uint32_t>(byte);
      if (seen[unit]) continue;
      seen[unit] = true;
      queue.push_back({child->position, depth + 1});
      if (!child->is_end) continue;
      THRESHER_ASSIGN_OR_RETURN(const std::string_view replacement, ReplacementAt(child->position));
      if (FindInvalidUtf8(replacement)) {
        return InvalidArgument("the character map has a replacement that is not valid UTF-8");
      }
      const auto size = static_cast<int64_t>(replacement.size());
      growth_ = std::max(growth_, (size + depth) / (depth + 1));
    }
  }
  return absl::OkStatus();
}

std::optional<CharacterMap::Match> CharacterMap::FindLongest(std::string_view text) const {
  std::optional<Match> longest;
  if (units_.empty()) return longest;
  uint32_t position = Root().position;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto node = Step(position, static_cast<unsigned char>(text[i]));
    if (!node) break;
    position = node->position;
    if (node->is_end) longest = {i + 1, *ReplacementAt(position)};
  }
  return longest;
}

absl::StatusOr<std::unique_ptr<Normalizer>> MakeSentencePieceNormalizer(
    const SentencePieceFile& model) {
  THRESHER_ASSIGN_OR_RETURN(CharacterMap map, CharacterMap::Create(model.character_map));
  return std::make_unique<SentencePieceNormalizer>(model, std::move(map));
}

}  // namespace thresher::text
