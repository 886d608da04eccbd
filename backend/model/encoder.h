// The BERT-family encoder: embeddings, then post-norm transformer layers, on a device.
//
//   h = norm(word + position + type)
//   each layer:  h = norm(h + attention(h) Wo);  h = norm(h + act(h W1) W2)
//
// Weights are immutable after Load; all that changes in a run is in the Workspace.
#ifndef THRESHER_BACKEND_MODEL_ENCODER_H_
#define THRESHER_BACKEND_MODEL_ENCODER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/model/model_config.h"
#include "backend/model/weight_reader.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// Sequences one after the other: sequence s is tokens [offsets[s], offsets[s + 1]).
struct RaggedBatch {
  std::span<const int32_t> ids;
  std::span<const int32_t> type_ids;  // As many as ids; not read by a network without token types.
  std::span<const int32_t> offsets;

  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
};

class Encoder {
 public:
  /// Memory of a run. It grows to the largest batch it has seen and is then reused as it is.
  class Workspace {
   public:
    /// [tokens, hidden_size]: the input of the next layer, and after the last the result.
    Matrix hidden() { return hidden_.view(); }

   private:
    friend class Encoder;
    MatrixBuffer hidden_;
    std::vector<int32_t> positions_;
    /// Attention (Q, K, V, context) and feed-forward (intermediate, output) take turns in it.
    AlignedBuffer<float> scratch_;
  };

  /// Reads and packs the encoder's weights. The reader's device must outlive the encoder, the
  /// checkpoint too: embedding tables stay mapped.
  static absl::StatusOr<Encoder> Load(const ModelConfig& config, WeightReader& reader);

  /// The three steps of a run, for callers that work between layers; `Forward` is all of them. Ids
  /// and type ids must be within the tables, sequences no longer than config.max_tokens().
  absl::Status Embed(const RaggedBatch& batch, Workspace& workspace) const;
  absl::Status RunLayer(size_t layer, std::span<const int32_t> offsets, Workspace& workspace) const;
  absl::Status Forward(const RaggedBatch& batch, Workspace& workspace) const;

  size_t layers() const { return layers_.size(); }

 private:
  struct Layer {
    std::unique_ptr<PackedLinear> query, key, value, attention_output, intermediate, output;
    NormWeights attention_norm, output_norm;
  };

  Encoder(const ModelConfig& config, Device& device) : config_(config), device_(&device) {}

  void FillPositions(const RaggedBatch& batch, std::vector<int32_t>& positions) const;
  absl::Status Normalize(ConstMatrix x, ConstMatrix residual, const NormWeights& norm,
                         Matrix y) const;

  ModelConfig config_;
  Device* device_;
  StoredMatrix words_, positions_, types_;
  NormWeights embeddings_norm_;
  std::vector<Layer> layers_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_ENCODER_H_
