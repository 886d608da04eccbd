// The layer record: what one layer of a batch computed, in numbers: the shapes, what was kept, how
// wide it was. It is made from the same plans and records as the pruning report, and it is what a
// simulated accelerator prices (simulator/accelerator.h). A trace file is layer records on disk
// (simulator/trace.h).
#ifndef THRESHER_BACKEND_DEVICE_LAYER_RECORD_H_
#define THRESHER_BACKEND_DEVICE_LAYER_RECORD_H_

#include <cstdint>
#include <vector>

#include "backend/device/plan.h"

namespace thresher {

/// The network that the layer belongs to.
struct LayerShape {
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t hidden_size = 0;
  int32_t ffn_size = 0;
  int32_t ffn_matrices = 2;  // 3 where the activation is gated.
  bool causal = false;

  friend bool operator==(const LayerShape&, const LayerShape&) = default;
};

/// What the attention of one head did. Counts are sums over the sequence's queries.
struct HeadRecord {
  int32_t head = 0;       // The model's numbering.
  int64_t queries = 0;    // Softmax rows.
  int64_t keys = 0;       // K rows that some query reads.
  int64_t scores = 0;     // Pairs of a query and a key that it reads.
  int64_t values = 0;     // V rows read.
  int64_t refetched = 0;  // Queries whose scores were made again in full width.
};

/// Widths of the operands, in bits. 0: not quantised (float).
struct OperandBits {
  int32_t query = 0;
  int32_t key = 0;          // Of a progressively quantised key: the part that is always read.
  int32_t key_refetch = 0;  // And what a refetch adds.
  int32_t value = 0;
};

/// One sequence.
struct SequenceRecord {
  int32_t rows = 0;  // Token rows that the layer computed: 1 in a decode step.
  int32_t keys = 0;  // That the last of them could see, if the policy let it: in an encoder, rows.
  // What a dense run would have had.
  int32_t dense_rows = 0;
  int32_t dense_keys = 0;
  bool decode = false;
  std::vector<HeadRecord> heads;  // Those that ran, ascending.
  OperandBits bits;
  double refetch_threshold = 0;  // On a row's largest probability. 0: none.
  /// Where the keys that are read lie, as token positions, ascending; all heads alike. Empty: those
  /// are not known (or all keys are read), and the first ones stand for them.
  std::vector<int32_t> positions;
  /// The ranking of tokens after this layer, or between steps: of `top_k_from` the best `top_k` are
  /// kept. 0: there was none.
  int32_t top_k_from = 0;
  int32_t top_k = 0;
  bool accumulates_importance = false;
  bool rescales_importance = false;  // Of what was accumulated before, when a step has ended.
  /// Likewise of heads, by what they put out.
  int32_t head_top_k_from = 0;
  int32_t head_top_k = 0;
  bool accumulates_head_importance = false;
  // Rows of Q, K and V that were generated, each counted once for each head.
  int64_t query_rows = 0;
  int64_t key_rows = 0;
  int64_t value_rows = 0;
  // FACT's eager prediction: rows of Q and K, for each head, and scores. 0: there was none.
  int64_t predicted_rows = 0;
  int64_t predicted_scores = 0;
  int32_t prediction_bits = 0;
  // The feed-forward network: rows in low precision, and its width.
  int32_t ffn_low_rows = 0;
  int32_t ffn_low_bits = 0;
  /// Which key each query reads, where a policy chose single ones. Null: all in sight. Valid while
  /// the layer is priced; a trace file has the counts alone.
  const CandidateMask* candidates = nullptr;
};

struct LayerRecord {
  int32_t layer = 0;
  LayerShape shape;
  std::vector<SequenceRecord> sequences;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_LAYER_RECORD_H_
