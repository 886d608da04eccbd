#include "client/load/peak_search.h"

#include <algorithm>
#include <cmath>

namespace thresher::load {

std::optional<double> PeakSearch::Next() const {
  if (!kept_ && !broken_) return std::clamp(options_.start, options_.least, options_.limit);
  if (!broken_) {
    if (*kept_ >= options_.limit) return std::nullopt;
    return std::min(*kept_ * 2, options_.limit);
  }
  if (!kept_) {
    if (*broken_ <= options_.least) return std::nullopt;
    return std::max(*broken_ / 2, options_.least);
  }
  if (*broken_ <= *kept_ * (1 + options_.precision)) return std::nullopt;
  return std::sqrt(*kept_ * *broken_);
}

void PeakSearch::Report(bool kept) {
  const auto rate = Next();
  if (!rate) return;
  (kept ? kept_ : broken_) = *rate;
}

}  // namespace thresher::load
