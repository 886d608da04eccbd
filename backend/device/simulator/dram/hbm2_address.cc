#include "backend/device/simulator/dram/hbm2_address.h"

#include <bit>
#include <optional>
#include <vector>

#include "backend/device/simulator/dram/hbm2_timing.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr std::string_view kNames[] = {"Ro", "Ba", "Bg", "Pc", "Co", "Ch"};
constexpr size_t kMaxText = 256;

/// One word of the text: a field, and how many of its bits; 0: those that are left.
struct Word {
  int field = 0;
  int bits = 0;
};

absl::StatusOr<std::vector<Word>> Split(std::string_view text) {
  std::vector<Word> words;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == ' ') {
      ++i;
      continue;
    }
    const std::string_view name = text.substr(i, 2);
    std::optional<int> field;
    for (int f = 0; f < static_cast<int>(std::size(kNames)); ++f) {
      if (name == kNames[f] || (name == "Ra" && kNames[f] == "Pc")) field = f;
    }
    if (!field) {
      return InvalidArgument(
          "dram.hbm2.address_map: '{}' at character {} of '{}' is no field; they are Ro, Ba, Bg, "
          "Pc (or Ra), Co and Ch",
          name, i + 1, text);
    }
    i += 2;
    Word word{.field = *field};
    bool numbered = false;
    for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) {
      numbered = true;
      word.bits = word.bits * 10 + (text[i] - '0');
      if (word.bits > 32) break;
    }
    if (numbered && (word.bits == 0 || word.bits > 32)) {
      return InvalidArgument("dram.hbm2.address_map: {} of '{}' can't have {} bits", name, text,
                             word.bits);
    }
    words.push_back(word);
  }
  return words;
}

}  // namespace

absl::StatusOr<Hbm2AddressMap> Hbm2AddressMap::Parse(std::string_view text, int channel_bits,
                                                     int row_bits) {
  if (text.size() > kMaxText) {
    return InvalidArgument("dram.hbm2.address_map: {} characters; at most {}", text.size(),
                           kMaxText);
  }
  THRESHER_ASSIGN_OR_RETURN(std::vector<Word> words, Split(text));

  int bits[kFields] = {};
  bits[kRow] = row_bits;
  bits[kBank] = std::countr_zero(uint32_t{kHbm2BanksPerGroup});
  bits[kBankGroup] = std::countr_zero(uint32_t{kHbm2BankGroups});
  bits[kPseudoChannel] = std::countr_zero(uint32_t{kHbm2PseudoChannels});
  bits[kColumn] = std::countr_zero(uint32_t{kHbm2Columns});
  bits[kChannel] = channel_bits;

  // "Ba" alone means the bank and, below it, the bank group.
  bool groups_named = false;
  for (const Word& word : words) groups_named |= word.field == kBankGroup;
  if (!groups_named) {
    std::vector<Word> spelled;
    for (const Word& word : words) {
      spelled.push_back(word);
      if (word.field != kBank) continue;
      if (word.bits != 0) {
        return InvalidArgument(
            "dram.hbm2.address_map: '{}' splits Ba and does not say where Bg goes", text);
      }
      spelled.push_back({.field = kBankGroup});
    }
    words = std::move(spelled);
  }

  int named[kFields] = {};
  bool open[kFields] = {};
  for (const Word& word : words) {
    if (word.bits == 0 && open[word.field]) {
      return InvalidArgument("dram.hbm2.address_map: '{}' has {} twice without a number of bits",
                             text, kNames[word.field]);
    }
    open[word.field] |= word.bits == 0;
    named[word.field] += word.bits;
  }
  for (int f = 0; f < kFields; ++f) {
    const bool fits = open[f] ? named[f] <= bits[f] : named[f] == bits[f];
    if (!fits) {
      return InvalidArgument("dram.hbm2.address_map: '{}' gives {} {} bits; it has {}", text,
                             kNames[f], named[f], bits[f]);
    }
  }

  Hbm2AddressMap map;
  int placed[kFields] = {};
  int shift = std::countr_zero(uint32_t{kHbm2BurstBytes});
  for (auto word = words.rbegin(); word != words.rend(); ++word) {
    const int count = word->bits != 0 ? word->bits : bits[word->field] - named[word->field];
    if (count == 0) continue;
    const Piece piece{.shift = static_cast<uint8_t>(shift),
                      .to = static_cast<uint8_t>(placed[word->field]),
                      .mask = static_cast<uint32_t>((uint64_t{1} << count) - 1)};
    if (placed[word->field] == 0) {
      map.first_[word->field] = piece;
    } else {
      map.rest_[word->field].push_back(piece);
      map.split_ = true;
    }
    placed[word->field] += count;
    shift += count;
  }
  return map;
}

}  // namespace thresher
