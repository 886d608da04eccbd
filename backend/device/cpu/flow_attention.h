// Flow-attention (reference/flow_attention.h says what it is) in time linear in the tokens: what
// queries need of keys and values is one matrix [head_dim, head_dim] for each head.
#ifndef THRESHER_BACKEND_DEVICE_CPU_FLOW_ATTENTION_H_
#define THRESHER_BACKEND_DEVICE_CPU_FLOW_ATTENTION_H_

#include "backend/device/cpu/thread_pool.h"
#include "backend/device/device.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// The input has passed CheckAttention. A head of a sequence is one task, so that its bits depend
/// on nothing else.
void LinearFlowAttention(const AttentionInput& input, Matrix out, ThreadPool* pool);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_FLOW_ATTENTION_H_
