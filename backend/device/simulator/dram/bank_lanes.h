// A small number for each bank of a pseudo-channel, side by side, so that all sixteen are compared
// at once. They are of 16 bits because every processor of 64 bits can take the greater or the less
// of eight such at a time.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_BANK_LANES_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_BANK_LANES_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>

#include "backend/device/simulator/dram/hbm2_timing.h"

namespace thresher {

class BankLanes {
 public:
  /// The greatest of all.
  static constexpr int16_t kMost = std::numeric_limits<int16_t>::max();

  BankLanes() = default;
  explicit BankLanes(int64_t value) { Fill(value); }

  int16_t operator[](int bank) const { return at_[bank]; }
  void Set(int bank, int64_t value) { at_[bank] = static_cast<int16_t>(value); }
  void Raise(int bank, int64_t least) {
    if (at_[bank] < least) Set(bank, least);
  }
  void Fill(int64_t value) { at_.fill(static_cast<int16_t>(value)); }
  void SetGroup(unsigned group, int64_t value) {
    const uint64_t four = static_cast<uint16_t>(value) * 0x0001'0001'0001'0001u;
    static_assert(sizeof four == kHbm2BanksPerGroup * sizeof at_[0]);
    std::memcpy(&at_[group * kHbm2BanksPerGroup], &four, sizeof four);
  }
  void RaiseGroup(unsigned group, int64_t least) {
    if (at_[group * kHbm2BanksPerGroup] < least) SetGroup(group, least);
  }

  friend BankLanes Max(const BankLanes& a, const BankLanes& b) {
    BankLanes result;
    for (int h = 0; h < 2; ++h) result.SetHalf(h, Max(a.half(h), b.half(h)));
    return result;
  }
  friend BankLanes Min(const BankLanes& a, const BankLanes& b) {
    BankLanes result;
    for (int h = 0; h < 2; ++h) result.SetHalf(h, Min(a.half(h), b.half(h)));
    return result;
  }

  /// The least number, and of the banks that have it the least `order`.
  struct First {
    int16_t least = 0;
    int16_t order = 0;
  };
  First FirstBy(const BankLanes& order) const {
    const int16_t least = Least(Min(half(0), half(1)));
    const Half all = Half{} + least;
    return {.least = least,
            .order = Least(Min(order.half(0) | ((half(0) != all) & kMost),
                               order.half(1) | ((half(1) != all) & kMost)))};
  }
  /// The only bank that has it.
  int Find(int16_t value) const {
    static_assert(kHbm2Banks == 16);
    constexpr Half kBanks[] = {{0, 1, 2, 3, 4, 5, 6, 7}, {8, 9, 10, 11, 12, 13, 14, 15}};
    const Half all = Half{} + value;
    Half bank = ((half(0) == all) & kBanks[0]) | ((half(1) == all) & kBanks[1]);
    bank |= __builtin_shufflevector(bank, bank, 4, 5, 6, 7, 0, 1, 2, 3);
    bank |= __builtin_shufflevector(bank, bank, 2, 3, 0, 1, 6, 7, 4, 5);
    bank |= __builtin_shufflevector(bank, bank, 1, 0, 3, 2, 5, 4, 7, 6);
    return bank[0];
  }

 private:
  typedef int16_t Half __attribute__((vector_size(16)));

  Half half(int i) const {
    Half result;
    std::memcpy(&result, &at_[i * 8], sizeof result);
    return result;
  }
  void SetHalf(int i, Half value) { std::memcpy(&at_[i * 8], &value, sizeof value); }
  static Half Max(Half a, Half b) { return a > b ? a : b; }
  static Half Min(Half a, Half b) { return a < b ? a : b; }
  static int16_t Least(Half a) {
    a = Min(a, __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3));
    a = Min(a, __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5));
    a = Min(a, __builtin_shufflevector(a, a, 1, 0, 3, 2, 5, 4, 7, 6));
    return a[0];
  }

  alignas(16) std::array<int16_t, kHbm2Banks> at_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_BANK_LANES_H_
