// The task heads of the BERT family: one or two linear layers on the first token of a sequence
// (sequence classification) or on every token (token classification, question answering).
#ifndef THRESHER_BACKEND_MODEL_HEAD_H_
#define THRESHER_BACKEND_MODEL_HEAD_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/model/model_config.h"
#include "backend/model/weight_reader.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// Immutable after Load; the reader's device must outlive it.
class Head {
 public:
  /// `config.task` must not be kNone.
  static absl::StatusOr<Head> Load(const ModelConfig& config, WeightReader& reader);

  /// True: reads every token. False: the first of each sequence.
  bool per_token() const { return per_token_; }
  /// Labels, or 2 (start, end) for question answering.
  int32_t outputs() const { return static_cast<int32_t>(logits_->out_features()); }

  /// Logits [rows, outputs()] of hidden states [rows, hidden_size]; `dense` is memory to reuse.
  absl::Status Run(ConstMatrix rows, MatrixBuffer& dense, Matrix logits) const;

 private:
  explicit Head(Device& device) : device_(&device) {}

  Device* device_;
  bool per_token_ = false;
  std::unique_ptr<PackedLinear> dense_;  // Null: none.
  Activation activation_ = Activation::kNone;
  std::unique_ptr<PackedLinear> logits_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_HEAD_H_
