// Which channel, bank, row and column the bits of an address mean.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_ADDRESS_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_ADDRESS_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace thresher {

struct Hbm2Location {
  int32_t channel = 0;
  int32_t pseudo_channel = 0;
  int32_t bank = 0;  // Of the pseudo-channel: bank group * 4 + bank in the group.
  int32_t row = 0;
  int32_t column = 0;  // In bursts.
};

class Hbm2AddressMap {
 public:
  /// `text` as Hbm2Spec.address_map explains. INVALID_ARGUMENT says which part is wrong.
  static absl::StatusOr<Hbm2AddressMap> Parse(std::string_view text, int channel_bits,
                                              int row_bits);

  int32_t Channel(uint64_t address) const { return static_cast<int32_t>(Of(kChannel, address)); }
  Hbm2Location Locate(uint64_t address) const {
    if (split_) [[unlikely]] {
      return From([&](Field field) { return Of(field, address); });
    }
    return From([&](Field field) { return first_[field].Of(address); });
  }

 private:
  enum Field { kRow, kBank, kBankGroup, kPseudoChannel, kColumn, kChannel, kFields };
  /// A field is gathered from pieces of the address, lowest first.
  struct Piece {
    uint8_t shift = 0;  // In the address,
    uint8_t to = 0;     // in the field.
    uint32_t mask = 0;

    uint32_t Of(uint64_t address) const { return static_cast<uint32_t>(address >> shift) & mask; }
  };

  template <typename Value>
  static Hbm2Location From(const Value& value) {
    const auto of = [&](Field field) { return static_cast<int32_t>(value(field)); };
    return {.channel = of(kChannel),
            .pseudo_channel = of(kPseudoChannel),
            .bank = of(kBankGroup) * 4 + of(kBank),
            .row = of(kRow),
            .column = of(kColumn)};
  }
  uint32_t Of(Field field, uint64_t address) const {
    uint32_t value = first_[field].Of(address);
    if (split_) {
      for (const Piece& piece : rest_[field]) value |= piece.Of(address) << piece.to;
    }
    return value;
  }

  // Most fields are of one piece; an empty first one yields 0.
  std::array<Piece, kFields> first_;
  bool split_ = false;  // Some field has more.
  std::array<std::vector<Piece>, kFields> rest_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_ADDRESS_H_
