#include "backend/device/cpu/isa.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <dnnl.hpp>
#include <iterator>
#include <string_view>

#include "backend/tensor/status.h"
#include "hwy/targets.h"

namespace thresher {
namespace {

struct Level {
  std::string_view name;
  dnnl::cpu_isa isa;
};

// Best first. oneDNN's values are sets of bits: a level has all the bits of those it includes.
constexpr Level kLevels[] = {
    {"avx512+amx", dnnl::cpu_isa::avx512_core_amx},
    {"avx512+bf16", dnnl::cpu_isa::avx512_core_bf16},
    {"avx512+vnni", dnnl::cpu_isa::avx512_core_vnni},
    {"avx512", dnnl::cpu_isa::avx512_core},
    {"avx2", dnnl::cpu_isa::avx2},
    {"sse4", dnnl::cpu_isa::sse41},
};

bool Includes(dnnl::cpu_isa isa, dnnl::cpu_isa part) {
  const auto bits = static_cast<uint32_t>(part);
  return (static_cast<uint32_t>(isa) & bits) == bits;
}

absl::StatusOr<Isa> Detect() {
  if (const char* cap = std::getenv("THRESHER_MAX_ISA"); cap != nullptr) {
    const auto* level = std::find_if(std::begin(kLevels), std::end(kLevels),
                                     [cap](const Level& level) { return level.name == cap; });
    if (level == std::end(kLevels)) {
      return InvalidArgument(
          "THRESHER_MAX_ISA is '{}', expected sse4, avx2, avx512, avx512+vnni, avx512+bf16 or "
          "avx512+amx",
          cap);
    }
    // Refused once oneDNN has been used by someone else; then what it has chosen stands.
    static_cast<void>(dnnl::set_max_cpu_isa(level->isa));
  }
  const dnnl::cpu_isa effective = dnnl::get_effective_cpu_isa();
  Isa isa{.name = "baseline",
          .vnni = Includes(effective, dnnl::cpu_isa::avx512_core_vnni),
          .bf16 = Includes(effective, dnnl::cpu_isa::avx512_core_bf16)};
  for (const Level& level : kLevels) {
    if (Includes(effective, level.isa)) {
      isa.name = level.name;
      isa.amx = level.isa == dnnl::cpu_isa::avx512_core_amx;
      break;
    }
  }
#if defined(__x86_64__)
  // Highway's targets are single bits, the better the lower: forbid all that are above the cap.
  const bool avx512 = Includes(effective, dnnl::cpu_isa::avx512_core);
  const bool avx2 = Includes(effective, dnnl::cpu_isa::avx2);
  if (!avx512) hwy::DisableTargets(avx2 ? HWY_AVX2 - 1 : HWY_SSE4 - 1);
#endif
  return isa;
}

}  // namespace

const absl::StatusOr<Isa>& DetectedIsa() {
  static const absl::StatusOr<Isa> isa = Detect();
  return isa;
}

}  // namespace thresher
