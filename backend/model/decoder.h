// A decoder on a device: embeddings, layers whose attention reads a KV cache, final norm and head.
// The network is described in decoder_config.h.
//
// Weights are immutable after Load; all that changes in a run is in the Workspace and in the
// caches.
#ifndef THRESHER_BACKEND_MODEL_DECODER_H_
#define THRESHER_BACKEND_MODEL_DECODER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/device/kv_cache.h"
#include "backend/model/decoder_config.h"
#include "backend/model/inner_layer.h"
#include "backend/model/weight_reader.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// The new tokens of several sequences, one sequence's after the other's.
struct DecoderBatch {
  std::span<const int32_t> ids;        // Each within the vocabulary.
  std::span<const int32_t> positions;  // Of each: where its query (and a rotated key) stands.
  std::span<const SpeculatedRows> speculated = {};  // Of all layers; ascending.
};

/// The sequences of a batch whose caches are kept alike.
struct CacheGroup {
  const KvLayout* layout = nullptr;
  std::span<const CachedSequence> sequences;
  std::span<CachedRecord> records;  // As many: what each one's attention did.
};

class Decoder {
 public:
  class Workspace {
   public:
    /// [rows, hidden_size]: the input of the next layer, and after the last the result.
    Matrix hidden() { return hidden_.view(); }

   private:
    friend class Decoder;
    MatrixBuffer hidden_;
    MatrixBuffer branch_;           // [rows, hidden_size]: a branch's input, then its output.
    MatrixBuffer narrow_;           // [rows, embedding_size]
    AlignedBuffer<float> scratch_;  // Attention and feed-forward take turns in it.
    std::vector<int32_t> positions_;
    InnerLayerWorkspace inner_layer_;
  };

  /// The reader, made with the prefix of decoder_tensor_names.h, finds the weights; its device must
  /// outlive the decoder. Tensors that the network does not have are passed over: GPT-2's masks, or
  /// the head of a file whose head is the word table.
  static absl::StatusOr<Decoder> Load(const DecoderConfig& config, WeightReader& reader);

  const DecoderConfig& config() const { return config_; }
  const RotaryTable& rotary() const { return rotary_; }

  /// Whether rows may speculate on zeros in so many bits,
  bool IsPrepared(int32_t speculation_bits) const;
  /// for which this packs the inner layers in low precision once more. `reader` as for Load, but of
  /// PrecisionOfBits(speculation_bits). Not while another thread runs.
  absl::Status Prepare(int32_t speculation_bits, WeightReader& reader);

  absl::Status Embed(const DecoderBatch& batch, Workspace& workspace) const;
  /// Then each layer in turn: stores the new K and V in the caches (rotated, unless the layout says
  /// rotate_on_read) and attends to them. Every row of the batch is in one sequence of one group.
  absl::Status RunLayer(int32_t layer, const DecoderBatch& batch,
                        std::span<const CacheGroup> groups, Workspace& workspace) const;
  /// The same where all caches are kept alike.
  absl::Status RunLayer(int32_t layer, const DecoderBatch& batch, const KvLayout& layout,
                        std::span<const CachedSequence> sequences, std::span<CachedRecord> records,
                        Workspace& workspace) const {
    const CacheGroup group = {&layout, sequences, records};
    return RunLayer(layer, batch, std::span(&group, 1), workspace);
  }
  /// Then logits [rows.size(), vocab_size] of those rows of hidden().
  absl::Status Logits(std::span<const int32_t> rows, Workspace& workspace, Matrix logits) const;

 private:
  struct Layer {
    std::unique_ptr<PackedLinear> query, key, value, attention_output, gate, up, down;
    NormWeights attention_norm, ffn_norm;
    LowPrecisionWeights low_up;  // What Prepare made.
  };

  Decoder(const DecoderConfig& config, Device& device) : config_(config), device_(&device) {}

  static absl::StatusOr<Layer> LoadLayer(const DecoderConfig& config, int32_t index,
                                         WeightReader& reader);

  absl::Status Normalize(const NormWeights& norm, ConstMatrix x, Matrix y) const;
  absl::Status Attend(int32_t index, const DecoderBatch& batch, std::span<const CacheGroup> groups,
                      ConstMatrix x, Workspace& workspace, Matrix y) const;
  absl::Status RotateKeys(const DecoderBatch& batch, std::span<const CacheGroup> groups,
                          Matrix key) const;
  absl::Status FeedForward(const Layer& layer, ConstMatrix x,
                           std::span<const SpeculatedRows> speculated, Workspace& workspace,
                           Matrix y) const;

  DecoderConfig config_;
  Device* device_;
  RotaryTable rotary_;
  OwnedTable words_, positions_;
  std::unique_ptr<PackedLinear> project_in_, project_out_, head_;
  NormWeights final_norm_;
  std::vector<Layer> layers_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_DECODER_H_
