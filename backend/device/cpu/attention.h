// Attention of one head of one sequence, for a block of its queries: the cpu device's unit of work.
#ifndef THRESHER_BACKEND_DEVICE_CPU_ATTENTION_H_
#define THRESHER_BACKEND_DEVICE_CPU_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "backend/device/cpu/dot_unit.h"
#include "backend/device/device.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// Queries of one task: blocks start at multiples of this within the sequence.
inline constexpr int64_t kQueryBlock = 192;

/// The columns of one head.
template <typename T>
MatrixView<T> HeadColumns(MatrixView<T> m, int64_t head, int64_t head_dim) {
  return {m.data + head * head_dim, m.rows, head_dim, m.stride};
}

struct HeadTask {
  ConstMatrix query;  // The block's rows of this head: [<= kQueryBlock, head_dim].
  ConstMatrix key;    // All rows of the sequence: [keys, head_dim].
  ConstMatrix value;
  int64_t first_query = 0;  // The block's first row within the sequence; matters when causal.
  float scale = 1.0f;
  bool causal = false;
  const DotUnit* bf16 = nullptr;  // Rounds the factors of both products; null: in float.
};

/// The unit that attention of heads of `head_dim` uses where its factors may be rounded to
/// `precision`; null: float.
const DotUnit* AttentionUnit(const Isa& isa, Precision precision, int64_t head_dim);

/// Floats of scratch that AttendHead needs; independent of the sequence's length.
size_t AttentionScratchSize(int64_t head_dim);

/// softmax(scale * Q K^T) V into out [query.rows, head_dim]. Keys are taken in blocks of fixed size
/// from the sequence's beginning, with a running maximum and sum, so each row's order of operations
/// is its own. `scratch` is aligned to 64 bytes.
void AttendHead(const HeadTask& task, float* scratch, Matrix out);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_ATTENTION_H_
