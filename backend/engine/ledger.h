// The account of one sequence: what a dense run would do and what was done, layer by layer. The one
// place where work is counted; reports, metrics and tables are made from it.
#ifndef THRESHER_BACKEND_ENGINE_LEDGER_H_
#define THRESHER_BACKEND_ENGINE_LEDGER_H_

#include <cstdint>

#include "backend/device/plan.h"
#include "backend/sparsity/policy.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

/// The work of one layer: of `dense_rows` tokens, `rows` were present, the attention did what
/// `record` says under `plan` (null: dense).
v1::PruningReport::Work LayerWork(const PolicyShape& shape, int32_t dense_rows, int32_t rows,
                                  const SequencePlan* plan, const AttentionRecord& record);

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_LEDGER_H_
