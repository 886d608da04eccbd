// Arithmetic on pruning reports (thresher/v1/sparsity.proto): sums, and shares of dense.
#ifndef THRESHER_BACKEND_SPARSITY_REPORT_H_
#define THRESHER_BACKEND_SPARSITY_REPORT_H_

#include <array>
#include <string_view>
#include <utility>

#include "thresher/v1/sparsity.pb.h"

namespace thresher {

/// The kinds of work that a keep ratio is given for, in the order of all tables.
struct KindOfWork {
  std::string_view name;
  const v1::PruningReport::Amount& (v1::PruningReport::Work::*amount)() const;
};
inline constexpr std::array<KindOfWork, 7> kKindsOfWork = {{
    {"token", &v1::PruningReport::Work::tokens},
    {"head", &v1::PruningReport::Work::heads},
    {"value", &v1::PruningReport::Work::values},
    {"score", &v1::PruningReport::Work::scores},
    {"qkv_row", &v1::PruningReport::Work::qkv_rows},
    {"ffn_full_precision", &v1::PruningReport::Work::ffn_full_precision},
    {"ffn_output", &v1::PruningReport::Work::ffn_outputs},
}};

/// Done over dense; 1 where there was nothing to do.
double KeepRatio(const v1::PruningReport::Amount& amount);

/// Softmax rows made again over all softmax rows; 0 where there were none.
double RefetchShare(const v1::PruningReport::Work& work);

/// Adds every amount of `work` to `total`.
void AddWork(const v1::PruningReport::Work& work, v1::PruningReport::Work* total);

/// The name and KeepRatio of each kind.
std::array<std::pair<std::string_view, double>, kKindsOfWork.size()> KeepRatios(
    const v1::PruningReport::Work& work);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_REPORT_H_
