#include "backend/model/decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/model/decoder_tensor_names.h"
#include "backend/model/rows.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

using Bias = WeightReader::Bias;
using Place = WeightReader::Place;

absl::StatusOr<NormWeights> LoadNorm(const DecoderConfig& config, std::string_view module,
                                     WeightReader& reader) {
  return config.rms_norm ? reader.RmsNorm(module, config.hidden_size)
                         : reader.Norm(module, config.hidden_size);
}

/// A linear layer that has a module of its own.
absl::StatusOr<std::unique_ptr<PackedLinear>> LoadLinear(const DecoderTensorNames& names,
                                                         const std::string& module, int64_t out,
                                                         int64_t in, bool bias,
                                                         WeightReader& reader) {
  if (!names.transposed) {
    return reader.Linear(module, out, in, Place::kEncoder, bias ? Bias::kStored : Bias::kNone);
  }
  THRESHER_ASSIGN_OR_RETURN(auto packed, reader.TransposedLinears(module, 1, out, in));
  return std::move(packed.front());
}

std::string LayerModule(const DecoderTensorNames& names, int32_t layer, std::string_view module) {
  return fmt::format("{}{}.{}", names.layers, layer, module);
}

}  // namespace

absl::StatusOr<Decoder::Layer> Decoder::LoadLayer(const DecoderConfig& config, int32_t index,
                                                  WeightReader& reader) {
  const DecoderTensorNames& names = NamesOf(config.family);
  const int64_t hidden = config.hidden_size;
  const int64_t wide = config.intermediate_size;
  const int64_t query = int64_t{config.heads} * config.head_dim;
  const int64_t key = int64_t{config.kv_heads} * config.head_dim;
  const auto name = [&](std::string_view module) { return LayerModule(names, index, module); };
  Layer layer;
  struct Part {
    std::string_view module;
    int64_t out, in;
    bool bias;
    std::unique_ptr<PackedLinear>* packed;
  };
  std::vector<Part> parts;
  if (names.query_key_value.empty()) {
    parts = {{names.query, query, hidden, config.attention_bias, &layer.query},
             {names.key, key, hidden, config.attention_bias, &layer.key},
             {names.value, key, hidden, config.attention_bias, &layer.value}};
  } else {
    THRESHER_ASSIGN_OR_RETURN(
        auto packed, reader.TransposedLinears(name(names.query_key_value), 3, hidden, hidden));
    layer.query = std::move(packed[0]);
    layer.key = std::move(packed[1]);
    layer.value = std::move(packed[2]);
  }
  parts.push_back(
      {names.attention_output, hidden, query, config.attention_bias, &layer.attention_output});
  if (config.gated) parts.push_back({names.gate, wide, hidden, config.mlp_bias, &layer.gate});
  parts.push_back({names.up, wide, hidden, config.mlp_bias, &layer.up});
  parts.push_back({names.down, hidden, wide, config.mlp_bias, &layer.down});
  for (const Part& part : parts) {
    THRESHER_ASSIGN_OR_RETURN(
        *part.packed, LoadLinear(names, name(part.module), part.out, part.in, part.bias, reader));
  }
  THRESHER_ASSIGN_OR_RETURN(layer.attention_norm,
                            LoadNorm(config, name(names.attention_norm), reader));
  THRESHER_ASSIGN_OR_RETURN(layer.ffn_norm, LoadNorm(config, name(names.ffn_norm), reader));
  return layer;
}

absl::StatusOr<Decoder> Decoder::Load(const DecoderConfig& config, WeightReader& reader) {
  const DecoderTensorNames& names = NamesOf(config.family);
  const int64_t hidden = config.hidden_size;
  const int64_t narrow = config.embedding_size;
  Decoder decoder(config, reader.device());
  THRESHER_ASSIGN_OR_RETURN(decoder.words_, reader.Table(names.words, config.vocab_size, narrow));
  if (!config.rotary) {
    const int64_t rows = int64_t{config.max_tokens} + config.position_offset;
    THRESHER_ASSIGN_OR_RETURN(decoder.positions_, reader.Table(names.positions, rows, hidden));
  }
  if (narrow != hidden) {
    THRESHER_ASSIGN_OR_RETURN(decoder.project_in_, reader.Linear(names.project_in, hidden, narrow,
                                                                 Place::kEncoder, Bias::kNone));
    THRESHER_ASSIGN_OR_RETURN(decoder.project_out_, reader.Linear(names.project_out, narrow, hidden,
                                                                  Place::kEncoder, Bias::kNone));
  }
  for (int32_t i = 0; i < config.layers; ++i) {
    THRESHER_ASSIGN_OR_RETURN(Layer layer, LoadLayer(config, i, reader));
    decoder.layers_.push_back(std::move(layer));
    reader.ReleasePages();  // So that a load never holds more than a layer twice.
  }
  // Once the widths are known to be those of the file.
  if (config.rotary) decoder.rotary_ = MakeRotaryTable(*config.rotary, config.max_tokens);
  if (config.final_norm) {
    THRESHER_ASSIGN_OR_RETURN(decoder.final_norm_, LoadNorm(config, names.final_norm, reader));
  }
  if (config.tied) {
    THRESHER_ASSIGN_OR_RETURN(
        decoder.head_, reader.Pack(names.words, {.weight = decoder.words_.matrix, .bias = {}}));
  } else {
    THRESHER_ASSIGN_OR_RETURN(decoder.head_, reader.Linear(names.head, config.vocab_size, narrow,
                                                           Place::kTop, Bias::kNone));
  }
  reader.ReleasePages();
  return decoder;
}

bool Decoder::IsPrepared(int32_t speculation_bits) const {
  return std::ranges::all_of(
      layers_, [&](const Layer& layer) { return layer.low_up.contains(speculation_bits); });
}

absl::Status Decoder::Prepare(int32_t speculation_bits, WeightReader& reader) {
  const DecoderTensorNames& names = NamesOf(config_.family);
  for (int32_t i = 0; i < config_.layers; ++i) {
    THRESHER_ASSIGN_OR_RETURN(
        auto packed, LoadLinear(names, LayerModule(names, i, names.up), config_.intermediate_size,
                                config_.hidden_size, config_.mlp_bias, reader));
    layers_[static_cast<size_t>(i)].low_up[speculation_bits] = std::move(packed);
    reader.ReleasePages();
  }
  return absl::OkStatus();
}

absl::Status Decoder::Normalize(const NormWeights& norm, ConstMatrix x, Matrix y) const {
  if (config_.rms_norm) return device_->RmsNorm(x, norm.gamma, config_.norm_epsilon, y);
  return device_->LayerNorm(x, {}, norm.gamma, norm.beta, config_.norm_epsilon, y);
}

absl::Status Decoder::Embed(const DecoderBatch& batch, Workspace& workspace) const {
  const auto rows = static_cast<int64_t>(batch.ids.size());
  workspace.hidden_.Resize(rows, config_.hidden_size);
  const Matrix hidden = workspace.hidden();
  std::vector<Device::Lookup> lookups;
  if (!config_.rotary) {
    workspace.positions_.assign(batch.positions.begin(), batch.positions.end());
    for (int32_t& position : workspace.positions_) position += config_.position_offset;
    lookups.push_back({positions_.matrix, workspace.positions_});
  }
  if (project_in_ == nullptr) {
    lookups.push_back({words_.matrix, batch.ids});
    return device_->Embed(lookups, hidden);
  }
  workspace.narrow_.Resize(rows, config_.embedding_size);
  const Matrix narrow = workspace.narrow_.view();
  const Device::Lookup words = {words_.matrix, batch.ids};
  THRESHER_RETURN_IF_ERROR(device_->Embed(std::span(&words, 1), narrow));
  THRESHER_RETURN_IF_ERROR(device_->Linear(*project_in_, narrow, Activation::kNone, hidden));
  if (lookups.empty()) return absl::OkStatus();
  workspace.branch_.Resize(rows, config_.hidden_size);
  const Matrix positions = workspace.branch_.view();
  THRESHER_RETURN_IF_ERROR(device_->Embed(lookups, positions));
  return device_->Add(positions, hidden);
}

absl::Status Decoder::RotateKeys(const DecoderBatch& batch, std::span<const CacheGroup> groups,
                                 Matrix key) const {
  const auto on_read = [](const CacheGroup& group) {
    return group.layout->format().rotate_on_read;
  };
  if (std::ranges::none_of(groups, on_read)) {
    return device_->Rotate(rotary_, batch.positions, config_.kv_heads, key);
  }
  for (const CacheGroup& group : groups) {
    if (on_read(group)) continue;
    for (const CachedSequence& sequence : group.sequences) {
      THRESHER_RETURN_IF_ERROR(
          device_->Rotate(rotary_,
                          batch.positions.subspan(static_cast<size_t>(sequence.first_row),
                                                  static_cast<size_t>(sequence.rows)),
                          config_.kv_heads, key.Rows(sequence.first_row, sequence.rows)));
    }
  }
  return absl::OkStatus();
}

absl::Status Decoder::Attend(int32_t index, const DecoderBatch& batch,
                             std::span<const CacheGroup> groups, ConstMatrix x,
                             Workspace& workspace, Matrix y) const {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const int64_t wide = int64_t{config_.heads} * config_.head_dim;
  const int64_t narrow = int64_t{config_.kv_heads} * config_.head_dim;
  workspace.scratch_.Resize(static_cast<size_t>(x.rows * 2 * (wide + narrow)));
  float* next = workspace.scratch_.data();
  const auto take = [&](int64_t cols) {
    return Matrix(std::exchange(next, next + x.rows * cols), x.rows, cols);
  };
  const Matrix query = take(wide);
  const Matrix context = take(wide);
  const Matrix key = take(narrow);
  const Matrix value = take(narrow);
  THRESHER_RETURN_IF_ERROR(device_->Linear(*layer.query, x, Activation::kNone, query));
  THRESHER_RETURN_IF_ERROR(device_->Linear(*layer.key, x, Activation::kNone, key));
  THRESHER_RETURN_IF_ERROR(device_->Linear(*layer.value, x, Activation::kNone, value));
  if (!rotary_.empty()) {
    THRESHER_RETURN_IF_ERROR(device_->Rotate(rotary_, batch.positions, config_.heads, query));
    THRESHER_RETURN_IF_ERROR(RotateKeys(batch, groups, key));
  }
  CachedAttentionInput attention = {
      .shape = {config_.heads, config_.kv_heads, config_.head_dim},
      .query = query,
      .layer = index,
      .rotary = &rotary_,
      .scale = 1.0f,
      .precision = layer.query->precision(),
  };
  if (config_.scale_attention) attention.scale /= std::sqrt(static_cast<float>(config_.head_dim));
  if (config_.scale_by_layer) attention.scale /= static_cast<float>(index + 1);
  for (const CacheGroup& group : groups) {
    THRESHER_RETURN_IF_ERROR(
        device_->StoreKeysValues(*group.layout, index, key, value, group.sequences));
    attention.layout = group.layout;
    attention.sequences = group.sequences;
    THRESHER_RETURN_IF_ERROR(device_->CachedAttention(attention, context, group.records));
  }
  return device_->Linear(*layer.attention_output, context, Activation::kNone, y);
}

absl::Status Decoder::FeedForward(const Layer& layer, ConstMatrix x,
                                  std::span<const SpeculatedRows> speculated, Workspace& workspace,
                                  Matrix y) const {
  const int64_t wide = config_.intermediate_size;
  workspace.scratch_.Resize(static_cast<size_t>(x.rows * wide * (config_.gated ? 2 : 1)));
  const Matrix up(workspace.scratch_.data(), x.rows, wide);
  if (config_.gated) {
    const Matrix gate(workspace.scratch_.data() + x.rows * wide, x.rows, wide);
    THRESHER_RETURN_IF_ERROR(device_->Linear(*layer.up, x, Activation::kNone, up));
    THRESHER_RETURN_IF_ERROR(device_->Linear(*layer.gate, x, config_.activation, gate));
    THRESHER_RETURN_IF_ERROR(device_->Multiply(gate, up));
  } else {
    THRESHER_RETURN_IF_ERROR(RunInnerLayer(*device_, *layer.up, layer.low_up, config_.activation, x,
                                           speculated, workspace.inner_layer_, up));
  }
  return device_->Linear(*layer.down, up, Activation::kNone, y);
}

absl::Status Decoder::RunLayer(int32_t index, const DecoderBatch& batch,
                               std::span<const CacheGroup> groups, Workspace& workspace) const {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const Matrix hidden = workspace.hidden();
  workspace.branch_.Resize(hidden.rows, hidden.cols);
  const Matrix branch = workspace.branch_.view();
  // Both branches write their result over their input, which they have read by then.
  const auto add_branch = [&](const NormWeights& norm, const auto& run) -> absl::Status {
    if (config_.pre_norm) THRESHER_RETURN_IF_ERROR(Normalize(norm, hidden, branch));
    THRESHER_RETURN_IF_ERROR(run(config_.pre_norm ? branch : hidden));
    THRESHER_RETURN_IF_ERROR(device_->Add(branch, hidden));
    return config_.pre_norm ? absl::OkStatus() : Normalize(norm, hidden, hidden);
  };
  THRESHER_RETURN_IF_ERROR(add_branch(layer.attention_norm, [&](ConstMatrix x) {
    return Attend(index, batch, groups, x, workspace, branch);
  }));
  return add_branch(layer.ffn_norm, [&](ConstMatrix x) {
    return FeedForward(layer, x, batch.speculated, workspace, branch);
  });
}

absl::Status Decoder::Logits(std::span<const int32_t> rows, Workspace& workspace,
                             Matrix logits) const {
  workspace.branch_.Resize(static_cast<int64_t>(rows.size()), config_.hidden_size);
  const Matrix chosen = workspace.branch_.view();
  GatherRows(workspace.hidden(), rows, chosen);
  if (config_.final_norm) THRESHER_RETURN_IF_ERROR(Normalize(final_norm_, chosen, chosen));
  if (project_out_ == nullptr) return device_->Linear(*head_, chosen, Activation::kNone, logits);
  workspace.narrow_.Resize(chosen.rows, config_.embedding_size);
  const Matrix narrow = workspace.narrow_.view();
  THRESHER_RETURN_IF_ERROR(device_->Linear(*project_out_, chosen, Activation::kNone, narrow));
  return device_->Linear(*head_, narrow, Activation::kNone, logits);
}

}  // namespace thresher
