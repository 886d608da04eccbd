#include "backend/model/encoder.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <vector>

#include "backend/device/plan_rows.h"
#include "backend/model/rows.h"
#include "backend/model/tensor_names.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

bool LowersFfn(const SequencePlan* plan) {
  return plan != nullptr && !plan->ffn_low_precision.empty();
}

/// Adds rows [first, end) of a sequence under `plan`, if they speculate.
void AddSpeculated(const SequencePlan* plan, int64_t first, int64_t end,
                   std::span<SpeculationRecord> records, size_t sequence,
                   std::vector<SpeculatedRows>& to) {
  if (plan == nullptr || !plan->speculation || first == end) return;
  to.push_back({.first = first,
                .rows = end - first,
                .rule = *plan->speculation,
                .measure = plan->wanted.wrong_zeros,
                .record = &records[sequence]});
}

// The attention's parts of the workspace's scratch memory.
constexpr int64_t kQuery = 0, kKey = 1, kValue = 2, kContext = 3;

/// Zero where the flag of `wanted` [heads][m.rows] is not set.
void FillUnwanted(std::span<const uint8_t> wanted, int64_t head_dim, Matrix m) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i] != 0) continue;
    const int64_t head = static_cast<int64_t>(i) / m.rows;
    std::fill_n(m.row(static_cast<int64_t>(i) % m.rows) + head * head_dim, head_dim, 0.0f);
  }
}

}  // namespace

void Encoder::Workspace::Reserve(int64_t wide) {
  const ConstMatrix hidden = hidden_.view();
  scratch_.Resize(static_cast<size_t>(hidden.rows * std::max(4 * hidden.cols, wide + hidden.cols)));
}

absl::StatusOr<Encoder> Encoder::Load(const ModelConfig& config, WeightReader& reader) {
  const TensorNames& names = NamesOf(config.family);
  const int64_t hidden = config.hidden_size;
  Encoder encoder(config, reader.device(), reader.precision());
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
    struct Part {
      std::string_view module;
      int64_t out, in;
      StoredLinear* stored;
      std::unique_ptr<PackedLinear>* packed;
    };
    StoredLinear attention_output;  // Needed in no other form.
    const Part parts[] = {
        {names.query, hidden, hidden, &layer.stored_query, &layer.query},
        {names.key, hidden, hidden, &layer.stored_key, &layer.key},
        {names.value, hidden, hidden, &layer.stored_value, &layer.value},
        {names.attention_output, hidden, hidden, &attention_output, &layer.attention_output},
        {names.intermediate, wide, hidden, &layer.stored_intermediate, &layer.intermediate},
        {names.output, hidden, wide, &layer.stored_output, &layer.output},
    };
    for (const Part& part : parts) {
      THRESHER_ASSIGN_OR_RETURN(*part.stored, reader.Stored(name(part.module), part.out, part.in));
      THRESHER_ASSIGN_OR_RETURN(*part.packed, reader.Pack(name(part.module), *part.stored));
    }
    THRESHER_ASSIGN_OR_RETURN(layer.attention_norm,
                              reader.Norm(name(names.attention_norm), hidden));
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
  const Device::Lookup lookups[] = {{words_.matrix, batch.ids},
                                    {positions_.matrix, workspace.positions_},
                                    {types_.matrix, batch.type_ids}};
  const size_t count = config_.type_vocab_size > 0 ? 3 : 2;
  const Matrix hidden = workspace.hidden();
  THRESHER_RETURN_IF_ERROR(device_->Embed(std::span(lookups, count), hidden));
  return Normalize(hidden, {}, embeddings_norm_, hidden);
}

float Encoder::attention_scale() const {
  return 1.0f / std::sqrt(static_cast<float>(config_.head_dim()));
}

absl::Status Encoder::FinishAttention(const Layer& layer, std::span<const int32_t> offsets,
                                      std::span<const SequencePlan* const> plans,
                                      Workspace& workspace) const {
  const Matrix hidden = workspace.hidden();
  const Matrix projected = workspace.Slice(kQuery);  // No longer needed as what it was.
  // Neighbours with the same heads go together; the others' columns are zero.
  using Heads = std::optional<std::vector<int32_t>>;
  static const Heads kAll;
  const auto heads_of = [&](size_t s) -> const Heads& {
    return plans[s] != nullptr ? plans[s]->heads : kAll;
  };
  for (size_t first = 0, end = 0; first < plans.size(); first = end) {
    const Heads& heads = heads_of(first);
    for (end = first + 1; end < plans.size() && heads_of(end) == heads;) ++end;
    const int32_t row = offsets[first];
    const int32_t rows = offsets[end] - row;
    const ConstMatrix from = ConstMatrix(workspace.Slice(kContext)).Rows(row, rows);
    const Matrix to = projected.Rows(row, rows);
    if (!heads) {
      THRESHER_RETURN_IF_ERROR(
          device_->Linear(*layer.attention_output, from, Activation::kNone, to));
      continue;
    }
    std::vector<ColumnRange> columns;
    const int64_t width = config_.head_dim();
    for (const int32_t head : *heads) {
      if (!columns.empty() && columns.back().end == head * width) {
        columns.back().end += width;
      } else {
        columns.push_back({head * width, (head + 1) * width});
      }
    }
    THRESHER_RETURN_IF_ERROR(device_->LinearOfColumns(*layer.attention_output, from, columns, to));
  }
  return Normalize(projected, hidden, layer.attention_norm, hidden);
}

absl::Status Encoder::FeedForward(const Layer& layer, const PackedLinear& intermediate,
                                  const PackedLinear& output, ConstMatrix x, Workspace& workspace,
                                  Matrix wide, Matrix y) const {
  THRESHER_RETURN_IF_ERROR(RunInnerLayer(*device_, intermediate, layer.low_intermediate,
                                         config_.activation, x, workspace.speculated_,
                                         workspace.inner_layer_, wide));
  return device_->Linear(output, wide, Activation::kNone, y);
}

absl::Status Encoder::RunLayer(size_t layer, std::span<const int32_t> offsets,
                               std::span<const SequencePlan* const> plans,
                               std::span<AttentionRecord> records, Workspace& workspace) const {
  THRESHER_RETURN_IF_ERROR(Project(layer, offsets, plans, workspace));
  THRESHER_RETURN_IF_ERROR(Attend(layer, offsets, plans, records, workspace));
  return FeedForward(layer, offsets, plans, {}, workspace);
}

absl::Status Encoder::Attend(size_t layer, std::span<const int32_t> offsets,
                             std::span<const SequencePlan* const> plans,
                             std::span<AttentionRecord> records, Workspace& workspace) const {
  const AttentionInput attention = {
      .shape = attention_shape(),
      .query = workspace.Slice(kQuery),
      .key = workspace.Slice(kKey),
      .value = workspace.Slice(kValue),
      .offsets = offsets,
      .scale = attention_scale(),
      .causal = config_.attention == AttentionKind::kCausalFlow,
      .precision = layers_[layer].query->precision(),
  };
  const Matrix context = workspace.Slice(kContext);
  if (config_.attention != AttentionKind::kSoftmax) {
    // Plans have no say in it (PolicyShape::attends).
    THRESHER_RETURN_IF_ERROR(device_->FlowAttention(attention, context));
    std::ranges::fill(records, AttentionRecord());
    return FinishAttention(layers_[layer], offsets, plans, workspace);
  }
  const bool planned =
      std::ranges::any_of(plans, [](const SequencePlan* plan) { return plan != nullptr; });
  THRESHER_RETURN_IF_ERROR(planned ? device_->PlannedAttention(attention, plans, context, records)
                                   : device_->Attention(attention, context));
  return FinishAttention(layers_[layer], offsets, plans, workspace);
}

absl::Status Encoder::FeedForward(size_t index, std::span<const int32_t> offsets,
                                  std::span<const SequencePlan* const> plans,
                                  std::span<SpeculationRecord> speculation,
                                  Workspace& workspace) const {
  const Layer& layer = layers_[index];
  const Matrix hidden = workspace.hidden();
  const int64_t wide = config_.intermediate_size;
  workspace.Reserve(wide);
  const Matrix inner(workspace.scratch_.data(), hidden.rows, wide);
  const Matrix output(workspace.scratch_.data() + hidden.rows * wide, hidden.rows, hidden.cols);
  if (std::ranges::any_of(plans, LowersFfn)) {
    THRESHER_RETURN_IF_ERROR(
        SplitFeedForward(layer, offsets, plans, speculation, inner, output, workspace));
  } else {
    workspace.speculated_.clear();
    for (size_t s = 0; s < plans.size(); ++s) {
      AddSpeculated(plans[s], offsets[s], offsets[s + 1], speculation, s, workspace.speculated_);
    }
    THRESHER_RETURN_IF_ERROR(
        FeedForward(layer, *layer.intermediate, *layer.output, hidden, workspace, inner, output));
  }
  return Normalize(output, hidden, layer.output_norm, hidden);
}

absl::Status Encoder::SplitFeedForward(const Layer& layer, std::span<const int32_t> offsets,
                                       std::span<const SequencePlan* const> plans,
                                       std::span<SpeculationRecord> speculation, Matrix inner,
                                       Matrix output, Workspace& workspace) const {
  /// The rows of all sequences that run in `bits`; 0: in full precision.
  const auto run = [&](int32_t bits, const PackedLinear& first,
                       const PackedLinear& second) -> absl::Status {
    std::vector<int32_t>& rows = workspace.ffn_rows_;
    rows.clear();
    workspace.speculated_.clear();
    for (size_t s = 0; s < plans.size(); ++s) {
      const auto first_row = static_cast<int64_t>(rows.size());
      for (int32_t row = offsets[s]; row < offsets[s + 1]; ++row) {
        const bool low = LowersFfn(plans[s]) && plans[s]->ffn_low_precision[row - offsets[s]] != 0;
        if ((low ? plans[s]->ffn_low_bits : 0) == bits) rows.push_back(row);
      }
      AddSpeculated(plans[s], first_row, static_cast<int64_t>(rows.size()), speculation, s,
                    workspace.speculated_);
    }
    const auto count = static_cast<int64_t>(rows.size());
    workspace.ffn_input_.Resize(count, output.cols);
    const Matrix gathered = workspace.ffn_input_.view();
    GatherRows(workspace.hidden(), rows, gathered);
    // The result takes the place of the input.
    THRESHER_RETURN_IF_ERROR(
        FeedForward(layer, first, second, gathered, workspace, inner.Rows(0, count), gathered));
    ScatterRows(gathered, rows, output);
    return absl::OkStatus();
  };
  std::set<int32_t> widths;
  for (const SequencePlan* plan : plans) {
    if (LowersFfn(plan)) widths.insert(plan->ffn_low_bits);
  }
  THRESHER_RETURN_IF_ERROR(run(0, *layer.intermediate, *layer.output));
  for (const int32_t bits : widths) {
    const auto first = layer.low_intermediate.find(bits);
    const auto second = layer.low_output.find(bits);
    if (first == layer.low_intermediate.end() || second == layer.low_output.end()) {
      return Internal("weights of {} bits are not prepared", bits);
    }
    THRESHER_RETURN_IF_ERROR(run(bits, *first->second, *second->second));
  }
  return absl::OkStatus();
}

absl::Status Encoder::Project(size_t index, std::span<const int32_t> offsets,
                              std::span<const SequencePlan* const> plans,
                              Workspace& workspace) const {
  const Layer& layer = layers_[index];
  const ConstMatrix hidden = workspace.hidden();
  workspace.Reserve(config_.intermediate_size);
  const Matrix query = workspace.Slice(kQuery);
  const Matrix key = workspace.Slice(kKey);
  const Matrix value = workspace.Slice(kValue);
  const auto skips_rows = [](const SequencePlan* plan) {
    return plan != nullptr && (plan->heads || plan->candidates || !plan->one_hot.empty());
  };
  if (std::ranges::none_of(plans, skips_rows)) {
    THRESHER_RETURN_IF_ERROR(device_->Linear(*layer.query, hidden, Activation::kNone, query));
    THRESHER_RETURN_IF_ERROR(device_->Linear(*layer.key, hidden, Activation::kNone, key));
    return device_->Linear(*layer.value, hidden, Activation::kNone, value);
  }
  if (!layer.head_query) return Internal("weights by head are not prepared");
  const auto tokens = static_cast<size_t>(hidden.rows);
  const auto heads = static_cast<size_t>(config_.heads);
  for (auto* wanted :
       {&workspace.query_wanted_, &workspace.key_wanted_, &workspace.value_wanted_}) {
    wanted->assign(heads * tokens, 1);
  }
  for (size_t s = 0; s < plans.size(); ++s) {
    if (!skips_rows(plans[s])) continue;
    const int32_t rows = offsets[s + 1] - offsets[s];
    const AttentionExtent extent{
        .heads = config_.heads, .kv_heads = config_.heads, .queries = rows, .keys = rows};
    THRESHER_RETURN_IF_ERROR(CheckPlan(*plans[s], extent));
    const GeneratedRows generated = RowsToGenerate(*plans[s], extent);
    for (size_t h = 0; h < heads; ++h) {
      const size_t to_row = h * tokens + offsets[s];
      const auto from = static_cast<std::ptrdiff_t>(h * rows);
      std::copy_n(generated.query.begin() + from, rows, workspace.query_wanted_.begin() + to_row);
      std::copy_n(generated.key.begin() + from, rows, workspace.key_wanted_.begin() + to_row);
      std::copy_n(generated.value.begin() + from, rows, workspace.value_wanted_.begin() + to_row);
    }
  }
  HeadLinear::Workspace& memory = workspace.head_linear_;
  THRESHER_RETURN_IF_ERROR(
      layer.head_query->Run(*device_, hidden, workspace.query_wanted_, memory, query));
  THRESHER_RETURN_IF_ERROR(
      layer.head_key->Run(*device_, hidden, workspace.key_wanted_, memory, key));
  FillUnwanted(workspace.query_wanted_, config_.head_dim(), query);
  FillUnwanted(workspace.key_wanted_, config_.head_dim(), key);
  return layer.head_value->Run(*device_, hidden, workspace.value_wanted_, memory, value);
}

bool Encoder::IsPrepared(const PlanNeeds& needs) const {
  return std::ranges::all_of(layers_, [&](const Layer& layer) {
    return (!needs.rows_by_head || layer.head_value) &&
           (needs.low_ffn_bits == 0 || (layer.low_intermediate.contains(needs.low_ffn_bits) &&
                                        layer.low_output.contains(needs.low_ffn_bits))) &&
           (needs.speculation_bits == 0 ||
            layer.low_intermediate.contains(needs.speculation_bits)) &&
           (!needs.prediction.wanted() || layer.predictors.contains(needs.prediction));
  });
}

absl::Status Encoder::Prepare(const PlanNeeds& needs) {
  for (Layer& layer : layers_) {
    if (needs.rows_by_head && !layer.head_value) {
      const auto pack = [&](const StoredLinear& stored) {
        return HeadLinear::Pack(*device_, stored, config_.heads, precision_);
      };
      THRESHER_ASSIGN_OR_RETURN(layer.head_query, pack(layer.stored_query));
      THRESHER_ASSIGN_OR_RETURN(layer.head_key, pack(layer.stored_key));
      THRESHER_ASSIGN_OR_RETURN(layer.head_value, pack(layer.stored_value));
    }
    const auto pack_low = [&](int32_t bits, const StoredLinear& stored,
                              LowPrecisionWeights& packed) -> absl::Status {
      if (bits == 0 || packed.contains(bits)) return absl::OkStatus();
      THRESHER_ASSIGN_OR_RETURN(auto weights,
                                device_->Pack(stored.weight, stored.bias, PrecisionOfBits(bits)));
      packed[bits] = std::move(weights);
      return absl::OkStatus();
    };
    THRESHER_RETURN_IF_ERROR(
        pack_low(needs.low_ffn_bits, layer.stored_intermediate, layer.low_intermediate));
    THRESHER_RETURN_IF_ERROR(pack_low(needs.low_ffn_bits, layer.stored_output, layer.low_output));
    THRESHER_RETURN_IF_ERROR(
        pack_low(needs.speculation_bits, layer.stored_intermediate, layer.low_intermediate));
    if (needs.prediction.wanted() && !layer.predictors.contains(needs.prediction)) {
      THRESHER_ASSIGN_OR_RETURN(
          ScorePredictor predictor,
          ScorePredictor::Pack(*device_, layer.stored_query, layer.stored_key, *layer.query,
                               attention_shape(), needs.prediction));
      layer.predictors.emplace(needs.prediction, std::move(predictor));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<const ScorePredictor*> Encoder::Predictor(size_t layer,
                                                         const PredictionRequest& request) const {
  const auto found = layers_[layer].predictors.find(request);
  if (found == layers_[layer].predictors.end()) return Internal("the prediction is not prepared");
  return &found->second;
}

absl::Status Encoder::PredictProjections(size_t layer, const PredictionRequest& request,
                                         ConstMatrix x,
                                         ScorePredictor::Workspace& workspace) const {
  THRESHER_ASSIGN_OR_RETURN(const ScorePredictor* predictor, Predictor(layer, request));
  return predictor->Project(*device_, x, workspace);
}

absl::Status Encoder::EncodeVectors(size_t layer, const PredictionRequest& request,
                                    ConstMatrix query, ConstMatrix key,
                                    ScorePredictor::Workspace& workspace) const {
  THRESHER_ASSIGN_OR_RETURN(const ScorePredictor* predictor, Predictor(layer, request));
  return predictor->Encode(*device_, query, key, workspace);
}

absl::Status Encoder::PredictScores(size_t layer, const PredictionRequest& request,
                                    const ScorePredictor::Workspace& workspace, int64_t first,
                                    int64_t rows, std::span<const int32_t> heads,
                                    ScoreBlockBody body) const {
  THRESHER_ASSIGN_OR_RETURN(const ScorePredictor* predictor, Predictor(layer, request));
  return predictor->Predict(*device_, workspace, first, rows, heads, attention_scale(), body);
}

}  // namespace thresher
