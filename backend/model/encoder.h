// The BERT-family encoder: embeddings, then post-norm transformer layers, on a device.
//
//   h = norm(word + position + type)
//   each layer:  h = norm(h + attention(h) Wo);  h = norm(h + act(h W1) W2)
//
// Weights are immutable after Load; all that changes in a run is in the Workspace.
#ifndef THRESHER_BACKEND_MODEL_ENCODER_H_
#define THRESHER_BACKEND_MODEL_ENCODER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/device/plan.h"
#include "backend/device/prediction.h"
#include "backend/model/head_linear.h"
#include "backend/model/inner_layer.h"
#include "backend/model/model_config.h"
#include "backend/model/score_predictor.h"
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

/// What a layer needs beyond its dense weights to run under plans.
struct PlanNeeds {
  bool rows_by_head = false;     // Q, K and V of chosen rows and heads.
  int32_t low_ffn_bits = 0;      // The feed-forward network in low precision; 0: none.
  int32_t speculation_bits = 0;  // Its inner layer, to speculate on zeros; 0: none.
  PredictionRequest prediction;  // Of the attention's scores.
};

class Encoder {
 public:
  /// Memory of a run. It grows to the largest batch it has seen and is then reused as it is.
  class Workspace {
   public:
    /// [tokens, hidden_size]: the input of the next layer, and after the last the result.
    Matrix hidden() { return hidden_.view(); }
    /// Keeps the first `rows` of hidden().
    void Shrink(int64_t rows) { hidden_.Resize(rows, hidden_.view().cols); }
    /// [tokens, hidden_size], between Project and Attend. What the plans do not generate is zero.
    ConstMatrix query() { return Slice(0); }
    ConstMatrix key() { return Slice(1); }

   private:
    friend class Encoder;
    /// Part `n` of scratch_, each as large as hidden_.
    Matrix Slice(int64_t n) {
      const Matrix hidden = hidden_.view();
      return {scratch_.data() + n * hidden.rows * hidden.cols, hidden.rows, hidden.cols};
    }

    /// Makes room in scratch_ for a layer of hidden_.rows, whose inner layer is `wide`.
    void Reserve(int64_t wide);

    MatrixBuffer hidden_;
    std::vector<int32_t> positions_;
    /// Attention (Q, K, V, context) and feed-forward (intermediate, output) take turns in it.
    AlignedBuffer<float> scratch_;
    // Under plans.
    std::vector<uint8_t> query_wanted_, key_wanted_, value_wanted_;  // [heads][tokens]
    HeadLinear::Workspace head_linear_;
    std::vector<int32_t> ffn_rows_;
    MatrixBuffer ffn_input_;
    std::vector<SpeculatedRows> speculated_;
    InnerLayerWorkspace inner_layer_;
  };

  /// Reads and packs the encoder's weights. The reader's device must outlive the encoder, the
  /// checkpoint too: embedding tables stay mapped.
  static absl::StatusOr<Encoder> Load(const ModelConfig& config, WeightReader& reader);

  /// The beginning of a run. Ids and type ids must be within the tables, sequences no longer than
  /// config.max_tokens().
  absl::Status Embed(const RaggedBatch& batch, Workspace& workspace) const;
  /// Then each layer in turn, which is these three: sequence s obeys *plans[s] (null: dense). All
  /// that the plans need must have been prepared. Between the first two, plans may choose more
  /// narrowly what is scored and read; between the last two, rows may leave.
  ///
  /// Q, K and V;
  absl::Status Project(size_t layer, std::span<const int32_t> offsets,
                       std::span<const SequencePlan* const> plans, Workspace& workspace) const;
  /// the attention, its residual and norm; unless all plans are null, records[s] says what the
  /// attention of sequence s did;
  absl::Status Attend(size_t layer, std::span<const int32_t> offsets,
                      std::span<const SequencePlan* const> plans,
                      std::span<AttentionRecord> records, Workspace& workspace) const;
  /// and the feed-forward network; what sequence s speculated is added to speculation[s].
  absl::Status FeedForward(size_t layer, std::span<const int32_t> offsets,
                           std::span<const SequencePlan* const> plans,
                           std::span<SpeculationRecord> speculation, Workspace& workspace) const;
  /// All three, of plans that do not speculate.
  absl::Status RunLayer(size_t layer, std::span<const int32_t> offsets,
                        std::span<const SequencePlan* const> plans,
                        std::span<AttentionRecord> records, Workspace& workspace) const;

  bool IsPrepared(const PlanNeeds& needs) const;
  /// Packs what plans need and is not there yet; weights come from the mapped checkpoint. Not while
  /// another thread runs.
  absl::Status Prepare(const PlanNeeds& needs);
  /// Predicts Q and K of `layer` for rows `x` of its input,
  absl::Status PredictProjections(size_t layer, const PredictionRequest& request, ConstMatrix x,
                                  ScorePredictor::Workspace& workspace) const;
  /// or encodes those of one sequence;
  absl::Status EncodeVectors(size_t layer, const PredictionRequest& request, ConstMatrix query,
                             ConstMatrix key, ScorePredictor::Workspace& workspace) const;
  /// and from that the scores of one sequence, rows [first, first + rows) of it: see
  /// ScorePredictor::Predict.
  absl::Status PredictScores(size_t layer, const PredictionRequest& request,
                             const ScorePredictor::Workspace& workspace, int64_t first,
                             int64_t rows, std::span<const int32_t> heads,
                             ScoreBlockBody body) const;
  /// Of the attention: scores are this times q.k.
  float attention_scale() const;

  size_t layers() const { return layers_.size(); }

 private:
  struct Layer {
    std::unique_ptr<PackedLinear> query, key, value, attention_output, intermediate, output;
    NormWeights attention_norm, output_norm;
    // The same where they are mapped, and what Prepare made of them.
    StoredLinear stored_query, stored_key, stored_value, stored_intermediate, stored_output;
    std::optional<HeadLinear> head_query, head_key, head_value;
    LowPrecisionWeights low_intermediate, low_output;
    std::map<PredictionRequest, ScorePredictor> predictors;
  };

  AttentionShape attention_shape() const {
    return {config_.heads, config_.heads, config_.head_dim()};
  }
  absl::StatusOr<const ScorePredictor*> Predictor(size_t layer,
                                                  const PredictionRequest& request) const;
  /// From the attention's context to the layer's output, all of it in full precision.
  absl::Status FinishAttention(const Layer& layer, std::span<const int32_t> offsets,
                               std::span<const SequencePlan* const> plans,
                               Workspace& workspace) const;
  /// Both products, of rows that workspace.speculated_ numbers.
  absl::Status FeedForward(const Layer& layer, const PackedLinear& intermediate,
                           const PackedLinear& output, ConstMatrix x, Workspace& workspace,
                           Matrix wide, Matrix y) const;

  /// Rows in full precision and rows in low precision as two products.
  absl::Status SplitFeedForward(const Layer& layer, std::span<const int32_t> offsets,
                                std::span<const SequencePlan* const> plans,
                                std::span<SpeculationRecord> speculation, Matrix inner,
                                Matrix output, Workspace& workspace) const;

  Encoder(const ModelConfig& config, Device& device, Precision precision)
      : config_(config), device_(&device), precision_(precision) {}

  void FillPositions(const RaggedBatch& batch, std::vector<int32_t>& positions) const;
  absl::Status Normalize(ConstMatrix x, ConstMatrix residual, const NormWeights& norm,
                         Matrix y) const;

  ModelConfig config_;
  Device* device_;
  Precision precision_;
  OwnedTable words_, positions_, types_;
  NormWeights embeddings_norm_;
  std::vector<Layer> layers_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_ENCODER_H_
