// Attention of a block of prompt rows over a KV cache, for the heads that share one KV head: a task
// of the cpu device.
#ifndef THRESHER_BACKEND_DEVICE_CPU_PROMPT_ATTENTION_H_
#define THRESHER_BACKEND_DEVICE_CPU_PROMPT_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "backend/device/cpu/dot_unit.h"
#include "backend/device/device.h"
#include "backend/device/kv_cache.h"
#include "backend/tensor/matrix.h"

namespace thresher {

struct PromptTask {
  const CachedAttentionInput* input;
  const CachedSequence* sequence;
  int32_t kv_head = 0;
  int32_t first_row = 0;          // Of the sequence's rows.
  int32_t rows = 0;               // At most PromptBlockRows().
  const DotUnit* bf16 = nullptr;  // As HeadTask has it.
};

/// Rows of one task: as many as let about kQueryBlock queries share the packing of K and V.
int32_t PromptBlockRows(const AttentionShape& shape);

/// Floats of scratch that AttendPrompt needs; independent of the cache's length.
size_t PromptScratchSize(const AttentionShape& shape);

/// Writes the task's rows and heads of `out`. Keys are taken in blocks of fixed size from the
/// cache's beginning, so a row's bits do not depend on the rows beside it. Adds probabilities of
/// the rows from sums_from on, in units of kProbabilityUnit, to sums [slots] of the KV head unless
/// it is null; tasks of the same KV head may run at once. `scratch` is aligned to 64 bytes.
void AttendPrompt(const PromptTask& task, float* scratch, Matrix out, int64_t* sums);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_PROMPT_ATTENTION_H_
