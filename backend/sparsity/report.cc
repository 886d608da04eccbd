#include "backend/sparsity/report.h"

namespace thresher {

using Amount = v1::PruningReport::Amount;
using Work = v1::PruningReport::Work;

void AddWork(const Work& work, Work* total) {
  const auto add = [](const Amount& from, Amount* to) {
    to->set_dense(to->dense() + from.dense());
    to->set_done(to->done() + from.done());
  };
  add(work.tokens(), total->mutable_tokens());
  add(work.heads(), total->mutable_heads());
  add(work.values(), total->mutable_values());
  add(work.scores(), total->mutable_scores());
  add(work.qkv_rows(), total->mutable_qkv_rows());
  add(work.ffn_full_precision(), total->mutable_ffn_full_precision());
  add(work.bytes(), total->mutable_bytes());
  total->set_softmax_rows(total->softmax_rows() + work.softmax_rows());
  total->set_refetched_rows(total->refetched_rows() + work.refetched_rows());
}

std::array<std::pair<std::string_view, double>, 6> KeepRatios(const Work& work) {
  const auto ratio = [](const Amount& amount) {
    return amount.dense() == 0
               ? 1.0
               : static_cast<double>(amount.done()) / static_cast<double>(amount.dense());
  };
  return {{{"token", ratio(work.tokens())},
           {"head", ratio(work.heads())},
           {"value", ratio(work.values())},
           {"score", ratio(work.scores())},
           {"qkv_row", ratio(work.qkv_rows())},
           {"ffn_full_precision", ratio(work.ffn_full_precision())}}};
}

}  // namespace thresher
