#include "backend/device/cpu/amx_unit.h"

#if defined(__x86_64__) && defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

#include "backend/device/cpu/amx_tiles-inl.h"
#include "backend/tensor/matrix.h"

namespace thresher {
namespace {

// As instructions, since the compilers' intrinsics take registers as literals alone, and some want
// options for the whole file.
struct Amx {
  static void Configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
  static void Release() { asm volatile("tilerelease"); }
  template <int kTile>
  static void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  static void Load(const std::byte* from, size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void Store(std::byte* to, size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
};
struct AmxInt8 : Amx {
  template <int kC, int kA, int kB>
  static void Multiply() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
};
struct AmxBFloat16 : Amx {
  template <int kC, int kA, int kB>
  static void Multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
};

/// Linux gives a process the tile registers when it asks for them.
bool Permitted() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILE_DATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

int32_t ToInt(int8_t element) { return element; }
int32_t ToInt(uint16_t element) { return static_cast<int32_t>(FromBF16(element)); }
void Set(int32_t value, int8_t* element) { *element = static_cast<int8_t>(value); }
void Set(int32_t value, uint16_t* element) { *element = ToBF16(static_cast<float>(value)); }

/// Whether a product of small integers, exact in either, comes out right, in all shapes of blocks.
template <typename Element, typename Sum>
bool Multiplies(DotMultiply multiply) {
  constexpr size_t kRows = 2 * kAmxRows + 3, kGroups = 2 * kAmxGroups;
  constexpr size_t kPerGroup = kDotGroupBytes / sizeof(Element);
  std::vector<Element> a(kRows * kGroups * kPerGroup);
  std::vector<Element> b(kGroups * kDotTileCols * kPerGroup);
  uint32_t random = 1;
  const auto fill = [&](std::vector<Element>& elements) {
    for (Element& element : elements) {
      random = random * 1664525 + 1013904223;
      Set(static_cast<int32_t>(random >> 24) % 15 - 7, &element);
    }
  };
  fill(a);
  fill(b);
  for (const size_t rows : {size_t{1}, kAmxRows + 1, kRows}) {
    std::vector<Sum> c(rows * kDotTileCols);
    const std::vector<GroupRange> all = {{.begin = 0, .end = kGroups}};
    const DotTask task = {.a = reinterpret_cast<const std::byte*>(a.data()),
                          .a_stride = kGroups * kDotGroupBytes,
                          .rows = rows,
                          .b = reinterpret_cast<const std::byte*>(b.data()),
                          .groups = kGroups,
                          .tiles = 1,
                          .c = reinterpret_cast<std::byte*>(c.data()),
                          .c_stride = kDotTileStep};
    multiply(task, all);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t n = 0; n < kDotTileCols; ++n) {
        int32_t sum = 0;
        for (size_t k = 0; k < kGroups * kPerGroup; ++k) {
          const size_t in_b = (k / kPerGroup * kDotTileCols + n) * kPerGroup + k % kPerGroup;
          sum += ToInt(a[r * kGroups * kPerGroup + k]) * ToInt(b[in_b]);
        }
        if (c[r * kDotTileCols + n] != static_cast<Sum>(sum)) return false;
      }
    }
  }
  return true;
}

constexpr DotUnit kInt8 = {
    .multiply = AmxMultiply<AmxInt8>, .row_step = 2 * kAmxRows, .group_step = kAmxGroups};
constexpr DotUnit kBFloat16 = {
    .multiply = AmxMultiply<AmxBFloat16>, .row_step = 2 * kAmxRows, .group_step = kAmxGroups};

}  // namespace

const DotUnit* Int8AmxUnit(const Isa& isa) {
  if (!isa.amx) return nullptr;
  static const bool works = Permitted() && Multiplies<int8_t, int32_t>(kInt8.multiply);
  return works ? &kInt8 : nullptr;
}

const DotUnit* BFloat16AmxUnit(const Isa& isa) {
  if (!isa.amx) return nullptr;
  static const bool works = Permitted() && Multiplies<uint16_t, float>(kBFloat16.multiply);
  return works ? &kBFloat16 : nullptr;
}

}  // namespace thresher

#else

namespace thresher {

const DotUnit* Int8AmxUnit(const Isa&) { return nullptr; }
const DotUnit* BFloat16AmxUnit(const Isa&) { return nullptr; }

}  // namespace thresher

#endif
