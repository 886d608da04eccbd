// Runs ragged batches of sequences through a model on a device.
#ifndef THRESHER_BACKEND_ENGINE_ENGINE_H_
#define THRESHER_BACKEND_ENGINE_ENGINE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

class LayerRecorder;

enum class Pooling { kCls, kMean };

/// What a report tells beyond its totals.
struct ReportDetail {
  bool layers = false;        // Each layer.
  bool tokens = false;        // How many layers each token went through.
  bool distribution = false;  // Attention entropy and sink, which take time to measure.
  bool wrong_zeros = false;   // What speculation skipped wrongly: likewise, the work it saved.
};

/// One sequence of a batch: what to run and what to return.
struct Sequence {
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;  // Empty: all zero.
  bool want_logits = false;       // The head's output.
  bool want_embedding = false;    // The pooled last hidden state.
  Pooling pooling = Pooling::kMean;
  bool normalize = false;  // Embedding to unit length.
  /// What to skip, made by this engine's ParsePolicy; null: dense.
  std::shared_ptr<const Policy> policy;
  ReportDetail detail;
};

/// The answer to one sequence.
struct SequenceOutput {
  /// Not OK: this sequence alone has no answer (INTERNAL, when its numbers overflowed); others
  /// stand.
  absl::Status status;
  /// [logit_rows, logit_cols], row-major: 1 x labels (sequence classification), tokens x labels
  /// (token classification), tokens x 2 (question answering: start, end).
  std::vector<float> logits;
  int32_t logit_rows = 0;
  int32_t logit_cols = 0;
  std::vector<float> embedding;  // [hidden_size]
  v1::PruningReport report;      // What ran.
};

/// Thread-safe. Run holds its device's mutex, so that engines which share a device take turns
/// there: a warm-up may run while others serve.
class Engine {
 public:
  virtual ~Engine() = default;

  /// Everything that can be wrong with a sequence is found here, before it is queued: an empty one,
  /// an id out of range, too long, type ids of another length, logits of a model without a head.
  virtual absl::Status Validate(const Sequence& sequence) const = 0;

  /// A policy for this model from its text (backend/sparsity/policy.h). INVALID_ARGUMENT names what
  /// is wrong; UNIMPLEMENTED: an engine that only runs dense.
  virtual absl::StatusOr<std::shared_ptr<const Policy>> ParsePolicy(std::string_view text) const {
    return absl::UnimplementedError("this engine only runs dense");
  }

  /// Predicted work in dense-token equivalents; what a batch's budget is counted in. At least 1.
  virtual int64_t Cost(const Sequence& sequence) const = 0;

  /// Runs valid sequences as one ragged batch; outputs[i] answers *sequences[i] with the same bits
  /// whatever the others are. An error is the batch's as a whole.
  virtual absl::Status Run(std::span<const Sequence* const> sequences,
                           std::span<SequenceOutput> outputs) = 0;

  /// From now on `recorder` hears of every layer that runs; null: nobody does.
  virtual void SetRecorder(std::shared_ptr<LayerRecorder> recorder) {}
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_ENGINE_H_
