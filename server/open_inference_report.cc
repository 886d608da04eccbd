#include "server/open_inference_report.h"

#include "backend/sparsity/report.h"

namespace thresher {

void FillAmount(const std::string& name, const v1::PruningReport::Amount& amount,
                InferFacts* facts) {
  (*facts)[name + "_dense"].set_int64_param(amount.dense());
  (*facts)[name + "_done"].set_int64_param(amount.done());
}

void FillWork(const v1::PruningReport::Work& work, InferFacts* facts) {
  for (const KindOfWork& kind : kKindsOfWork) {
    const std::string name(kind.name);
    const v1::PruningReport::Amount& amount = (work.*kind.amount)();
    (*facts)["keep_" + name].set_double_param(KeepRatio(amount));
    FillAmount(name, amount, facts);
  }
  FillAmount("bytes", work.bytes(), facts);
  (*facts)["softmax_rows"].set_int64_param(work.softmax_rows());
  (*facts)["refetched_rows"].set_int64_param(work.refetched_rows());
  (*facts)["refetch_share"].set_double_param(RefetchShare(work));
  (*facts)["predicted_rows"].set_int64_param(work.predicted_rows());
  (*facts)["predicted_scores"].set_int64_param(work.predicted_scores());
  (*facts)["predicted_outputs"].set_int64_param(work.predicted_outputs());
}

}  // namespace thresher
