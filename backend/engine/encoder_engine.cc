#include "backend/engine/encoder_engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/engine/layer_pricing.h"
#include "backend/model/tensor_names.h"
#include "backend/model/weight_reader.h"
#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// A network with fewer than two token types has nothing to tell them apart by: like its published
/// form, it takes no type ids, whatever the tokenizer gives.
bool ReadsTypes(const ModelConfig& config) { return config.type_vocab_size > 1; }

void Normalize(std::span<float> vector) {
  double sum = 0.0;
  for (const float x : vector) sum += double{x} * x;
  const double scale = 1.0 / std::max(std::sqrt(sum), 1e-12);
  for (float& x : vector) x = static_cast<float>(x * scale);
}

bool AllFinite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

}  // namespace

absl::StatusOr<std::unique_ptr<EncoderEngine>> EncoderEngine::Load(const std::string& directory,
                                                                   const ModelConfig& config,
                                                                   std::shared_ptr<Device> device,
                                                                   Precision precision,
                                                                   int32_t max_tokens) {
  THRESHER_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(directory));
  WeightReader reader(checkpoint, *device, precision, NamesOf(config.family).prefix);
  THRESHER_ASSIGN_OR_RETURN(Encoder encoder, Encoder::Load(config, reader));
  std::optional<Head> head;
  if (config.task != Task::kNone) {
    THRESHER_ASSIGN_OR_RETURN(head, Head::Load(config, reader));
  }
  reader.ReleasePages();
  std::unique_ptr<EncoderEngine> engine(new EncoderEngine(config, std::move(device), max_tokens,
                                                          std::move(checkpoint), std::move(encoder),
                                                          std::move(head)));
  engine->parameters_ = reader.parameters();
  engine->packed_bytes_ = reader.packed_bytes();
  return engine;
}

EncoderEngine::EncoderEngine(const ModelConfig& config, std::shared_ptr<Device> device,
                             int32_t max_tokens, Checkpoint checkpoint, Encoder encoder,
                             std::optional<Head> head)
    : config_(config),
      device_(std::move(device)),
      max_tokens_(max_tokens),
      checkpoint_(std::move(checkpoint)),
      policy_shape_{.layers = config.layers,
                    .heads = config.heads,
                    .kv_heads = config.heads,
                    .head_dim = config.head_dim(),
                    .hidden_size = config.hidden_size,
                    .ffn_size = config.intermediate_size,
                    .relu = config.activation == Activation::kRelu,
                    .attends = config.attention == AttentionKind::kSoftmax},
      encoder_(std::move(encoder)),
      head_(std::move(head)) {}

absl::Status EncoderEngine::Validate(const Sequence& sequence) const {
  const size_t size = sequence.ids.size();
  if (size == 0) return InvalidArgument("the sequence has no tokens");
  if (size > static_cast<size_t>(max_tokens_)) {
    return InvalidArgument("the sequence has {} tokens; the model takes at most {}", size,
                           max_tokens_);
  }
  for (size_t i = 0; i < size; ++i) {
    if (sequence.ids[i] < 0 || sequence.ids[i] >= config_.vocab_size) {
      return InvalidArgument("token {}: id {} is not within 0 .. {}", i, sequence.ids[i],
                             config_.vocab_size - 1);
    }
  }
  if (!sequence.type_ids.empty() && sequence.type_ids.size() != size) {
    return InvalidArgument("{} token type ids for {} tokens", sequence.type_ids.size(), size);
  }
  if (ReadsTypes(config_)) {
    for (size_t i = 0; i < sequence.type_ids.size(); ++i) {
      if (sequence.type_ids[i] < 0 || sequence.type_ids[i] >= config_.type_vocab_size) {
        return InvalidArgument("token {}: type id {} is not within 0 .. {}", i,
                               sequence.type_ids[i], config_.type_vocab_size - 1);
      }
    }
  }
  if (!sequence.want_logits && !sequence.want_embedding) {
    return InvalidArgument("neither logits nor an embedding is asked for");
  }
  if (sequence.want_logits && !head_) {
    return InvalidArgument("logits are asked for, but '{}' has no head; it gives embeddings",
                           config_.architecture);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const Policy>> EncoderEngine::ParsePolicy(
    std::string_view text) const {
  THRESHER_ASSIGN_OR_RETURN(auto policy, Policy::Parse(text, policy_shape_));
  THRESHER_RETURN_IF_ERROR(CheckHardware(*device_, *policy));
  return policy;
}

int64_t EncoderEngine::Cost(const Sequence& sequence) const {
  const auto tokens = static_cast<int32_t>(sequence.ids.size());
  const double share = sequence.policy != nullptr ? sequence.policy->CostShare(tokens) : 1.0;
  return std::max<int64_t>(1, std::llround(tokens * share));
}

absl::Status EncoderEngine::Prepare(std::span<const Sequence* const> sequences) {
  for (const Sequence* sequence : sequences) {
    const Policy* policy = sequence->policy.get();
    if (policy == nullptr || policy->is_dense()) continue;
    const auto speculation = policy->speculation();
    const PlanNeeds needs = {.rows_by_head = policy->chooses_rows(),
                             .low_ffn_bits = policy->low_ffn_bits(),
                             .speculation_bits = speculation ? speculation->bits : 0,
                             .prediction = policy->prediction()};
    if (encoder_.IsPrepared(needs)) continue;
    THRESHER_RETURN_IF_ERROR(checkpoint_.CheckUnchanged());
    THRESHER_RETURN_IF_ERROR(encoder_.Prepare(needs));
  }
  return absl::OkStatus();
}

absl::Status EncoderEngine::Run(std::span<const Sequence* const> sequences,
                                std::span<SequenceOutput> outputs) {
  if (sequences.size() != outputs.size()) {
    return InvalidArgument("{} outputs for {} sequences", outputs.size(), sequences.size());
  }
  if (sequences.empty()) return absl::OkStatus();
  MutexLock lock(&device_->mutex());
  Concatenate(sequences);
  const RaggedBatch batch = {workspace_.ids, workspace_.type_ids, workspace_.offsets};
  THRESHER_RETURN_IF_ERROR(Prepare(sequences));
  workspace_.reports.resize(sequences.size());
  LayerPricing pricing(*device_, policy_shape_, recorder_.get());
  THRESHER_RETURN_IF_ERROR(ForwardUnderPolicies(encoder_, policy_shape_, batch, workspace_.requests,
                                                pricing, workspace_.forward, &workspace_.hidden,
                                                workspace_.reports));
  THRESHER_RETURN_IF_ERROR(RunHead(sequences, outputs));
  THRESHER_RETURN_IF_ERROR(RunPooling(sequences, outputs));
  for (size_t s = 0; s < outputs.size(); ++s) {
    SequenceOutput& output = outputs[s];
    output.report = std::move(workspace_.reports[s]);
    if (!AllFinite(output.logits) || !AllFinite(output.embedding)) {
      output.status = Internal(
          "the model's answer is not finite: its numbers overflow, or its weights are damaged");
    }
  }
  pricing.Finish();
  return absl::OkStatus();
}

void EncoderEngine::SetRecorder(std::shared_ptr<LayerRecorder> recorder) {
  MutexLock lock(&device_->mutex());
  recorder_ = std::move(recorder);
}

void EncoderEngine::Concatenate(std::span<const Sequence* const> sequences) {
  Workspace& w = workspace_;
  w.ids.clear();
  w.type_ids.clear();
  w.offsets.assign(1, 0);
  w.requests.clear();
  for (const Sequence* sequence : sequences) {
    w.ids.insert(w.ids.end(), sequence->ids.begin(), sequence->ids.end());
    if (ReadsTypes(config_)) {
      w.type_ids.insert(w.type_ids.end(), sequence->type_ids.begin(), sequence->type_ids.end());
    }
    w.type_ids.resize(w.ids.size(), 0);
    w.offsets.push_back(static_cast<int32_t>(w.ids.size()));
    w.requests.push_back({.policy = sequence->policy.get(), .detail = sequence->detail});
  }
}

absl::Status EncoderEngine::RunHead(std::span<const Sequence* const> sequences,
                                    std::span<SequenceOutput> outputs) {
  Workspace& w = workspace_;
  const auto rows_of = [&](size_t s) -> int32_t {
    if (!sequences[s]->want_logits) return 0;
    return head_->per_token() ? w.offsets[s + 1] - w.offsets[s] : 1;
  };
  int64_t rows = 0;
  for (size_t s = 0; s < sequences.size(); ++s) rows += rows_of(s);
  if (rows == 0) return absl::OkStatus();

  const ConstMatrix hidden = w.hidden;
  w.head_rows.Resize(rows, hidden.cols);
  float* next_row = w.head_rows.view().data;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const float* first = hidden.row(w.offsets[s]);
    next_row = std::copy(first, first + rows_of(s) * hidden.cols, next_row);
  }
  w.logits.Resize(rows, head_->outputs());
  THRESHER_RETURN_IF_ERROR(head_->Run(w.head_rows.view(), w.head_dense, w.logits.view()));

  int64_t row = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    if (!sequences[s]->want_logits) continue;
    SequenceOutput& output = outputs[s];
    output.logit_rows = rows_of(s);
    output.logit_cols = head_->outputs();
    const float* first = w.logits.view().row(row);
    output.logits.assign(first, first + int64_t{output.logit_rows} * output.logit_cols);
    row += output.logit_rows;
  }
  return absl::OkStatus();
}

absl::Status EncoderEngine::RunPooling(std::span<const Sequence* const> sequences,
                                       std::span<SequenceOutput> outputs) {
  Workspace& w = workspace_;
  const auto wants_mean = [](const Sequence* sequence) {
    return sequence->want_embedding && sequence->pooling == Pooling::kMean;
  };
  const ConstMatrix hidden = w.hidden;
  if (std::any_of(sequences.begin(), sequences.end(), wants_mean)) {
    w.pooled.Resize(static_cast<int64_t>(sequences.size()), hidden.cols);
    THRESHER_RETURN_IF_ERROR(device_->MeanPool(hidden, w.offsets, w.pooled.view()));
  }
  for (size_t s = 0; s < sequences.size(); ++s) {
    if (!sequences[s]->want_embedding) continue;
    const auto row_index = static_cast<int64_t>(s);
    const std::span<const float> row = sequences[s]->pooling == Pooling::kMean
                                           ? ConstMatrix(w.pooled.view()).row_span(row_index)
                                           : hidden.row_span(w.offsets[s]);
    outputs[s].embedding.assign(row.begin(), row.end());
    if (sequences[s]->normalize) Normalize(outputs[s].embedding);
  }
  return absl::OkStatus();
}

}  // namespace thresher
