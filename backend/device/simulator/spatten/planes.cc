#include "backend/device/simulator/spatten/planes.h"

#include <algorithm>

namespace thresher {

std::vector<BitPlane> PlanesOf(int32_t bits, int32_t head_dim, int32_t burst_bytes,
                               const v1::SpAttenFetch& fetch) {
  std::vector<BitPlane> known;
  for (const auto& plane : fetch.planes()) {
    BitPlane made{.bits = plane.bits(), .fused_heads = plane.fused_heads()};
    made.row_bytes = (head_dim * made.bits + 7) / 8;
    made.word_bursts = made.Bursts(0, made.fused_heads, burst_bytes);
    known.push_back(made);
  }
  // least[b]: the fewest transactions for a head that give at least b bits, and the plane that is
  // taken first for that.
  struct Choice {
    double bursts = 0;
    int plane = -1;
  };
  std::vector<Choice> least(bits + 1);
  for (int32_t b = 1; b <= bits; ++b) {
    for (size_t i = 0; i < known.size(); ++i) {
      const double bursts = static_cast<double>(known[i].word_bursts) / known[i].fused_heads +
                            least[std::max(0, b - known[i].bits)].bursts;
      if (least[b].plane < 0 || bursts < least[b].bursts) {
        least[b] = {bursts, static_cast<int>(i)};
      }
    }
  }
  std::vector<BitPlane> chosen;
  for (int32_t b = bits; b > 0; b -= chosen.back().bits) chosen.push_back(known[least[b].plane]);
  return chosen;
}

}  // namespace thresher
