// Arithmetic on pruning reports (thresher/v1/sparsity.proto): sums, and shares of dense.
#ifndef THRESHER_BACKEND_SPARSITY_REPORT_H_
#define THRESHER_BACKEND_SPARSITY_REPORT_H_

#include <array>
#include <string_view>
#include <utility>

#include "thresher/v1/sparsity.pb.h"

namespace thresher {

/// Adds every amount of `work` to `total`.
void AddWork(const v1::PruningReport::Work& work, v1::PruningReport::Work* total);

/// Done over dense by kind, in a fixed order: token, head, value, score, qkv_row,
/// ffn_full_precision. 1 where there was nothing to do.
std::array<std::pair<std::string_view, double>, 6> KeepRatios(const v1::PruningReport::Work& work);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_REPORT_H_
