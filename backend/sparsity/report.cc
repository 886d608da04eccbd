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
  total->set_predicted_rows(total->predicted_rows() + work.predicted_rows());
  total->set_predicted_scores(total->predicted_scores() + work.predicted_scores());
  add(work.ffn_outputs(), total->mutable_ffn_outputs());
  total->set_predicted_outputs(total->predicted_outputs() + work.predicted_outputs());
  if (work.has_wrongly_skipped_outputs()) {
    total->set_wrongly_skipped_outputs(total->wrongly_skipped_outputs() +
                                       work.wrongly_skipped_outputs());
  }
}

double KeepRatio(const Amount& amount) {
  if (amount.dense() == 0) return 1.0;
  return static_cast<double>(amount.done()) / static_cast<double>(amount.dense());
}

double RefetchShare(const Work& work) {
  if (work.softmax_rows() == 0) return 0.0;
  return static_cast<double>(work.refetched_rows()) / static_cast<double>(work.softmax_rows());
}

std::array<std::pair<std::string_view, double>, kKindsOfWork.size()> KeepRatios(const Work& work) {
  std::array<std::pair<std::string_view, double>, kKindsOfWork.size()> ratios;
  for (size_t i = 0; i < ratios.size(); ++i) {
    ratios[i] = {kKindsOfWork[i].name, KeepRatio((work.*kKindsOfWork[i].amount)())};
  }
  return ratios;
}

}  // namespace thresher
