// The engine of BERT-family encoders: classification, token classification, extractive answers and
// embeddings.
#ifndef THRESHER_BACKEND_ENGINE_ENCODER_ENGINE_H_
#define THRESHER_BACKEND_ENGINE_ENCODER_ENGINE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/engine/engine.h"
#include "backend/engine/policy_forward.h"
#include "backend/model/checkpoint.h"
#include "backend/model/encoder.h"
#include "backend/model/head.h"
#include "backend/model/model_config.h"
#include "backend/tensor/matrix.h"

namespace thresher {

class EncoderEngine final : public Engine {
 public:
  /// Reads and packs the weights of `directory` as `config` describes them. `max_tokens` is at most
  /// config.max_tokens().
  static absl::StatusOr<std::unique_ptr<EncoderEngine>> Load(const std::string& directory,
                                                             const ModelConfig& config,
                                                             std::shared_ptr<Device> device,
                                                             Precision precision,
                                                             int32_t max_tokens);

  absl::StatusOr<std::shared_ptr<const Policy>> ParsePolicy(std::string_view text) const override;
  absl::Status Validate(const Sequence& sequence) const override;
  int64_t Cost(const Sequence& sequence) const override;
  absl::Status Run(std::span<const Sequence* const> sequences,
                   std::span<SequenceOutput> outputs) override;
  void SetRecorder(std::shared_ptr<LayerRecorder> recorder) override;

  int64_t parameters() const { return parameters_; }
  size_t packed_bytes() const { return packed_bytes_; }

 private:
  /// Memory of a run, kept for the next one. Used under the device's mutex.
  struct Workspace {
    std::vector<int32_t> ids, type_ids, offsets;
    std::vector<PolicyRequest> requests;
    std::vector<v1::PruningReport> reports;
    PolicyWorkspace forward;
    ConstMatrix hidden;  // Every token's last hidden state.
    MatrixBuffer head_rows, head_dense, logits, pooled;
  };

  EncoderEngine(const ModelConfig& config, std::shared_ptr<Device> device, int32_t max_tokens,
                Checkpoint checkpoint, Encoder encoder, std::optional<Head> head);

  /// Packs what the batch's policies need and no earlier one has needed.
  absl::Status Prepare(std::span<const Sequence* const> sequences);
  void Concatenate(std::span<const Sequence* const> sequences);
  absl::Status RunHead(std::span<const Sequence* const> sequences,
                       std::span<SequenceOutput> outputs);
  absl::Status RunPooling(std::span<const Sequence* const> sequences,
                          std::span<SequenceOutput> outputs);

  const ModelConfig config_;
  const std::shared_ptr<Device> device_;
  const int32_t max_tokens_;
  const Checkpoint checkpoint_;  // Of what the encoder may have to pack later.
  const PolicyShape policy_shape_;
  Encoder encoder_;
  const std::optional<Head> head_;
  int64_t parameters_ = 0;
  size_t packed_bytes_ = 0;
  Workspace workspace_;
  std::shared_ptr<LayerRecorder> recorder_;  // Under the device's mutex.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_ENCODER_ENGINE_H_
