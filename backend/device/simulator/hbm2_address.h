// Which channel, bank, row and column the bits of an address mean.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_HBM2_ADDRESS_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_HBM2_ADDRESS_H_

#include <array>
#include <cstdint>
#include <string_view>

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

  int32_t Channel(uint64_t address) const {
    return static_cast<int32_t>(fields_[kChannel].Of(address));
  }
  Hbm2Location Locate(uint64_t address) const {
    const auto of = [&](Field field) { return static_cast<int32_t>(fields_[field].Of(address)); };
    return {.channel = of(kChannel),
            .pseudo_channel = of(kPseudoChannel),
            .bank = of(kBankGroup) * 4 + of(kBank),
            .row = of(kRow),
            .column = of(kColumn)};
  }

 private:
  enum Field { kRow, kBank, kBankGroup, kPseudoChannel, kColumn, kChannel, kFields };
  static constexpr int kMaxPieces = 32;

  /// A field is gathered from pieces of the address, lowest first.
  struct Gather {
    struct Piece {
      uint8_t shift = 0;  // In the address,
      uint8_t to = 0;     // in the field.
      uint32_t mask = 0;
    };
    std::array<Piece, kMaxPieces> pieces;
    int count = 0;
    int bits = 0;

    uint32_t Of(uint64_t address) const {
      // Most fields are of one piece; an empty first one yields 0.
      uint32_t value = static_cast<uint32_t>(address >> pieces[0].shift) & pieces[0].mask;
      for (int i = 1; i < count; ++i) {
        value |= (static_cast<uint32_t>(address >> pieces[i].shift) & pieces[i].mask)
                 << pieces[i].to;
      }
      return value;
    }
  };

  std::array<Gather, kFields> fields_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_HBM2_ADDRESS_H_
