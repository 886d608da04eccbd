#include "backend/model/encoder.h"

#include <algorithm>
#include <cmath>

#include "backend/model/tensor_names.h"
#include "backend/tensor/status.h"

namespace thresher {

absl::StatusOr<Encoder> Encoder::Load(const ModelConfig& config, WeightReader& reader) {
  const TensorNames& names = NamesOf(config.family);
  const int64_t hidden = config.hidden_size;
  Encoder encoder(config, reader.device());
  THRESHER_ASSIGN_OR_RETURN(encoder.words_,
                            reader.Table(names.word_embeddings, config.vocab_size, hidden));
  THRESHER_ASSIGN_OR_RETURN(encoder.positions_,
                            reader.Table(names.position_embeddings, config.positions, hidden));
  if (config.type_vocab_size > 0) {
    THRESHER_ASSIGN_OR_RETURN(
        encoder.types_, reader.Table(names.token_type_embeddings, config.type_vocab_size, hidden));
  }
  THRESHER_ASSIGN_OR_RETURN(encoder.embeddings_norm_, reader.Norm(names.embeddings_norm, hidden));

  for (int32_t i = 0; i < config.layers; ++i) {
    const auto name = [&](std::string_view module) {
      return fmt::format("{}{}.{}", names.layers, i, module);
    };
    const int64_t wide = config.intermediate_size;
    Layer layer;
    THRESHER_ASSIGN_OR_RETURN(layer.query, reader.Linear(name(names.query), hidden, hidden));
    THRESHER_ASSIGN_OR_RETURN(layer.key, reader.Linear(name(names.key), hidden, hidden));
    THRESHER_ASSIGN_OR_RETURN(layer.value, reader.Linear(name(names.value), hidden, hidden));
    THRESHER_ASSIGN_OR_RETURN(layer.attention_output,
                              reader.Linear(name(names.attention_output), hidden, hidden));
    THRESHER_ASSIGN_OR_RETURN(layer.attention_norm,
                              reader.Norm(name(names.attention_norm), hidden));
    THRESHER_ASSIGN_OR_RETURN(layer.intermediate,
                              reader.Linear(name(names.intermediate), wide, hidden));
    THRESHER_ASSIGN_OR_RETURN(layer.output, reader.Linear(name(names.output), hidden, wide));
    THRESHER_ASSIGN_OR_RETURN(layer.output_norm, reader.Norm(name(names.output_norm), hidden));
    encoder.layers_.push_back(std::move(layer));
    reader.ReleasePages();  // So that a load never holds more than a layer twice.
  }
  return encoder;
}

void Encoder::FillPositions(const RaggedBatch& batch, std::vector<int32_t>& positions) const {
  positions.resize(batch.ids.size());
  for (size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
    int32_t next = config_.first_position;
    for (int32_t t = batch.offsets[s]; t < batch.offsets[s + 1]; ++t) {
      // RoBERTa gives a padding token, should the caller send one, the padding's own position.
      const bool padding =
          config_.family == Family::kRoberta && batch.ids[t] == config_.pad_token_id;
      positions[t] = padding ? config_.pad_token_id : next++;
    }
  }
}

absl::Status Encoder::Normalize(ConstMatrix x, ConstMatrix residual, const NormWeights& norm,
                                Matrix y) const {
  return device_->LayerNorm(x, residual, norm.gamma, norm.beta, config_.layer_norm_epsilon, y);
}

absl::Status Encoder::Embed(const RaggedBatch& batch, Workspace& workspace) const {
  const int64_t tokens = batch.tokens();
  workspace.hidden_.Resize(tokens, config_.hidden_size);
  FillPositions(batch, workspace.positions_);
  const Device::Lookup lookups[] = {
      {words_, batch.ids}, {positions_, workspace.positions_}, {types_, batch.type_ids}};
  const size_t count = config_.type_vocab_size > 0 ? 3 : 2;
  const Matrix hidden = workspace.hidden();
  THRESHER_RETURN_IF_ERROR(device_->Embed(std::span(lookups, count), hidden));
  return Normalize(hidden, {}, embeddings_norm_, hidden);
}

absl::Status Encoder::RunLayer(size_t index, std::span<const int32_t> offsets,
                               Workspace& workspace) const {
  const Layer& layer = layers_[index];
  const Matrix hidden = workspace.hidden();
  const int64_t tokens = hidden.rows;
  const int64_t width = config_.hidden_size;
  const int64_t wide = config_.intermediate_size;
  workspace.scratch_.Resize(static_cast<size_t>(tokens * std::max(4 * width, wide + width)));
  const auto slice = [&](int64_t column, int64_t cols) {
    return Matrix(workspace.scratch_.data() + tokens * column, tokens, cols);
  };

  const Matrix query = slice(0, width);
  const Matrix key = slice(width, width);
  const Matrix value = slice(2 * width, width);
  const Matrix context = slice(3 * width, width);
  THRESHER_RETURN_IF_ERROR(device_->Linear(*layer.query, hidden, Activation::kNone, query));
  THRESHER_RETURN_IF_ERROR(device_->Linear(*layer.key, hidden, Activation::kNone, key));
  THRESHER_RETURN_IF_ERROR(device_->Linear(*layer.value, hidden, Activation::kNone, value));
  const AttentionInput attention = {
      .shape = {config_.heads, config_.heads, config_.head_dim()},
      .query = query,
      .key = key,
      .value = value,
      .offsets = offsets,
      .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim())),
  };
  THRESHER_RETURN_IF_ERROR(device_->Attention(attention, context));
  const Matrix attended = slice(0, width);  // Where the query was.
  THRESHER_RETURN_IF_ERROR(
      device_->Linear(*layer.attention_output, context, Activation::kNone, attended));
  THRESHER_RETURN_IF_ERROR(Normalize(attended, hidden, layer.attention_norm, hidden));

  const Matrix intermediate = slice(0, wide);
  const Matrix output = slice(wide, width);
  THRESHER_RETURN_IF_ERROR(
      device_->Linear(*layer.intermediate, hidden, config_.activation, intermediate));
  THRESHER_RETURN_IF_ERROR(device_->Linear(*layer.output, intermediate, Activation::kNone, output));
  return Normalize(output, hidden, layer.output_norm, hidden);
}

absl::Status Encoder::Forward(const RaggedBatch& batch, Workspace& workspace) const {
  THRESHER_RETURN_IF_ERROR(Embed(batch, workspace));
  for (size_t i = 0; i < layers_.size(); ++i) {
    THRESHER_RETURN_IF_ERROR(RunLayer(i, batch.offsets, workspace));
  }
  return absl::OkStatus();
}

}  // namespace thresher
