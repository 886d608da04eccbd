#include "backend/engine/policy_forward.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "backend/device/shape_checks.h"
#include "backend/engine/layer_pricing.h"
#include "backend/engine/ledger.h"
#include "backend/model/rows.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/report.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// One sequence on its way through the layers.
class SequenceRun {
 public:
  SequenceRun(const PolicyShape& shape, const PolicyRequest& request, int32_t first, int32_t tokens,
              v1::PruningReport* report)
      : shape_(shape),
        request_(request),
        first_(first),
        tokens_(tokens),
        report_(report),
        positions_(static_cast<size_t>(tokens)),
        heads_(static_cast<size_t>(shape.heads)) {
    std::iota(positions_.begin(), positions_.end(), 0);
    std::iota(heads_.begin(), heads_.end(), 0);
    report_->Clear();
    report_->set_policy(request.policy != nullptr ? request.policy->text() : "dense");
    if (request.detail.tokens) report_->mutable_token_layers()->Resize(tokens, shape.layers);
    if (!sparse()) return;
    const int32_t first_token[] = {0};
    run_ = request.policy->Start(tokens, first_token);
  }

  bool sparse() const { return request_.policy != nullptr && !request_.policy->is_dense(); }
  int32_t rows() const { return static_cast<int32_t>(positions_.size()); }
  const Policy& policy() const { return *request_.policy; }

  /// Null: dense, and nothing is asked for.
  const SequencePlan* MakePlan(int32_t layer, const LayerPrediction* prediction) {
    if (!planned()) return nullptr;
    plan_ = {};
    if (heads_.size() < static_cast<size_t>(shape_.heads)) plan_.heads = heads_;
    plan_.wanted.distribution = measures_attention();
    plan_.wanted.wrong_zeros = request_.detail.wrong_zeros;
    predicted_ = prediction != nullptr;
    if (sparse()) run_->BeforeProjection(layer, positions_, prediction, &plan_);
    return &plan_;
  }

  /// Goes on with the plan, now that Q and K are there.
  void ChooseFromScores(int32_t layer, const LayerVectors& vectors,
                        const LayerPrediction* prediction) {
    const bool chosen_before = plan_.candidates.has_value();
    predicted_ |= prediction != nullptr;
    run_->BeforeScores(layer, positions_, vectors, prediction, &plan_);
    plan_.candidates_from_scores = plan_.candidates && !chosen_before;
  }

  /// Counts the layer and hears what the policy decides, when its attention has run.
  void Finish(int32_t layer, const AttentionRecord& record) {
    const SequencePlan* plan = planned() ? &plan_ : nullptr;
    v1::PruningReport::Work work = LayerWork(shape_, tokens_, rows(), plan, predicted_, record);
    if (plan != nullptr) distribution_.Add(*plan, positions_[0] == 0, record);
    decision_ = {.rows = std::vector<int32_t>(positions_.size()), .heads = heads_};
    std::iota(decision_.rows.begin(), decision_.rows.end(), 0);
    if (sparse()) run_->AfterAttention(layer, positions_, record, &decision_);
    heads_ = decision_.heads;
    if (leaves_before_ffn()) {
      work.mutable_ffn_full_precision()->set_done(FullPrecisionRows());
      work.mutable_ffn_outputs()->set_done(static_cast<int64_t>(decision_.rows.size()) *
                                           shape_.ffn_size);
    }
    AddWork(work, report_->mutable_total());
    if (request_.detail.layers) *report_->add_layers() = work;
  }

  /// Then what its feed-forward network skipped.
  void FinishFeedForward(const SpeculationRecord& record) {
    AddSpeculation(record, report_->mutable_total());
    if (!request_.detail.layers) return;
    AddSpeculation(record, report_->mutable_layers(report_->layers_size() - 1));
  }

  /// Of the layer that just finished.
  SequenceRecord Record(const AttentionRecord& record) const {
    return RecordOf(shape_, tokens_, positions_, planned() ? &plan_ : nullptr,
                    planned() && predicted_ ? policy().prediction().bits : 0, record,
                    static_cast<int32_t>(decision_.rows.size()),
                    static_cast<int32_t>(decision_.heads.size()));
  }
  v1::Simulation* simulation() { return report_->mutable_simulation(); }

  /// What the policy decided: the rows of the layer that stay.
  std::span<const int32_t> kept_rows() const { return decision_.rows; }
  bool drops() const { return decision_.rows.size() < positions_.size(); }
  bool leaves_before_ffn() const { return decision_.before_ffn && drops(); }

  /// Does what was decided to the rows `hidden` of the sequence: merges; copies what is dropped to
  /// its place in `result`, and forgets it. Afterwards nothing drops.
  void Drop(int32_t layer, Matrix hidden, Matrix result) {
    for (const auto& [from, into, share] : decision_.merges) {
      Merge(hidden.row(from), share, hidden.cols, hidden.row(into));
      if (merged_into_.empty()) merged_into_.assign(static_cast<size_t>(tokens_), -1);
      merged_into_[positions_[from]] = positions_[into];
    }
    size_t next = 0;
    std::vector<int32_t> kept;
    std::vector<uint8_t> low;
    for (int32_t row = 0; row < rows(); ++row) {
      if (next < decision_.rows.size() && decision_.rows[next] == row) {
        kept.push_back(positions_[row]);
        if (!plan_.ffn_low_precision.empty()) low.push_back(plan_.ffn_low_precision[row]);
        ++next;
        continue;
      }
      std::copy_n(hidden.row(row), hidden.cols, result.row(first_ + positions_[row]));
      if (request_.detail.tokens) report_->set_token_layers(positions_[row], layer + 1);
    }
    positions_ = std::move(kept);
    plan_.ffn_low_precision = std::move(low);
  }

  /// Copies the rows still present to their places.
  void Deliver(ConstMatrix hidden, Matrix result) const {
    for (int32_t row = 0; row < rows(); ++row) {
      std::copy_n(hidden.row(row), hidden.cols, result.row(first_ + positions_[row]));
    }
    for (int32_t token = 0; token < static_cast<int32_t>(merged_into_.size()); ++token) {
      int32_t last = token;
      while (merged_into_[last] >= 0) last = merged_into_[last];
      if (last == token) continue;
      std::copy_n(result.row(first_ + last), result.cols, result.row(first_ + token));
    }
  }

  /// After the last layer.
  void FinishReport() { distribution_.Fill(report_); }

 private:
  bool measures_attention() const { return request_.detail.distribution && shape_.attends; }
  bool planned() const { return sparse() || measures_attention(); }

  static void Merge(const float* from, float share, int64_t cols, float* into) {
    for (int64_t c = 0; c < cols; ++c) into[c] = (1.0f - share) * into[c] + share * from[c];
  }

  /// Of the rows that stay: those whose feed-forward network runs in full precision.
  int64_t FullPrecisionRows() const {
    if (plan_.ffn_low_precision.empty()) return static_cast<int64_t>(decision_.rows.size());
    return std::ranges::count_if(decision_.rows,
                                 [&](int32_t row) { return plan_.ffn_low_precision[row] == 0; });
  }

  const PolicyShape& shape_;
  const PolicyRequest request_;
  const int32_t first_;   // Its first token within the batch.
  const int32_t tokens_;  // In layer 0.
  v1::PruningReport* const report_;
  std::vector<int32_t> positions_;  // Of the rows that are present.
  std::vector<int32_t> heads_;
  std::unique_ptr<PolicyRun> run_;
  SequencePlan plan_;
  bool predicted_ = false;  // The plan was made with a prediction.
  CascadeDecision decision_;
  std::vector<int32_t>
      merged_into_;  // By token: what it goes on in, or -1. Empty: none was merged.
  AttentionDistribution distribution_;
};

/// The predicted scores of one sequence: rows [first, first + rows) of what is predicted from.
class Prediction final : public LayerPrediction {
 public:
  Prediction(const Encoder& encoder, int32_t layer, const PredictionRequest& request,
             const ScorePredictor::Workspace& projections, int64_t first, int64_t rows)
      : encoder_(encoder),
        layer_(layer),
        request_(request),
        projections_(projections),
        first_(first),
        rows_(rows) {}

  void ForEachBlock(std::span<const int32_t> heads, Body body) const override {
    status_.Update(encoder_.PredictScores(static_cast<size_t>(layer_), request_, projections_,
                                          first_, rows_, heads, body));
  }
  /// The first error; a plan made after one means nothing.
  const absl::Status& status() const { return status_; }

 private:
  const Encoder& encoder_;
  const int32_t layer_;
  const PredictionRequest request_;
  const ScorePredictor::Workspace& projections_;
  const int64_t first_;
  const int64_t rows_;
  mutable absl::Status status_;
};

/// The whole batch.
class BatchRun {
 public:
  BatchRun(const Encoder& encoder, const PolicyShape& shape, const RaggedBatch& batch,
           std::span<const PolicyRequest> requests, LayerPricing& pricing,
           PolicyWorkspace& workspace, std::span<v1::PruningReport> reports)
      : encoder_(encoder), shape_(shape), pricing_(pricing), workspace_(workspace) {
    offsets_.assign(batch.offsets.begin(), batch.offsets.end());
    for (size_t s = 0; s < requests.size(); ++s) {
      runs_.push_back(std::make_unique<SequenceRun>(shape_, requests[s], offsets_[s],
                                                    offsets_[s + 1] - offsets_[s], &reports[s]));
    }
    plans_.resize(runs_.size());
    records_.resize(runs_.size());
  }

  absl::Status RunLayer(int32_t layer) {
    const auto index = static_cast<size_t>(layer);
    Encoder::Workspace& workspace = workspace_.encoder;
    THRESHER_RETURN_IF_ERROR(MakePlans(layer));
    THRESHER_RETURN_IF_ERROR(encoder_.Project(index, offsets_, plans_, workspace));
    THRESHER_RETURN_IF_ERROR(ChooseFromScores(layer));
    THRESHER_RETURN_IF_ERROR(encoder_.Attend(index, offsets_, plans_, records_, workspace));
    for (size_t s = 0; s < runs_.size(); ++s) {
      if (plans_[s] == nullptr && shape_.attends) {
        records_[s] = DenseRecord({shape_.heads, shape_.kv_heads, shape_.head_dim},
                                  runs_[s]->rows(), shape_.causal);
      }
      runs_[s]->Finish(layer, records_[s]);
    }
    if (pricing_.on()) THRESHER_RETURN_IF_ERROR(Price(layer));
    Compact(layer, &SequenceRun::leaves_before_ffn);
    speculation_.assign(runs_.size(), {});
    THRESHER_RETURN_IF_ERROR(
        encoder_.FeedForward(index, offsets_, plans_, speculation_, workspace));
    for (size_t s = 0; s < runs_.size(); ++s) runs_[s]->FinishFeedForward(speculation_[s]);
    Compact(layer, &SequenceRun::drops);
    return absl::OkStatus();
  }

  /// Every token's last hidden state.
  ConstMatrix Finish(int64_t tokens) {
    for (const auto& run : runs_) run->FinishReport();
    const ConstMatrix hidden = workspace_.encoder.hidden();
    if (hidden.rows == tokens) return hidden;  // Nothing was dropped.
    for (size_t s = 0; s < runs_.size(); ++s) runs_[s]->Deliver(Rows(s), workspace_.result.view());
    return workspace_.result.view();
  }

 private:
  ConstMatrix Rows(size_t s) const {
    return workspace_.encoder.hidden().Rows(offsets_[s], offsets_[s + 1] - offsets_[s]);
  }

  /// The prediction that the policy of sequence s wants.
  PredictionRequest RequestOf(size_t s) const {
    return runs_[s]->sparse() ? runs_[s]->policy().prediction() : PredictionRequest();
  }

  absl::Status MakePlans(int32_t layer) {
    for (size_t s = 0; s < runs_.size();) {
      const PredictionRequest request = RequestOf(s);
      if (!request.from_input()) {
        plans_[s] = runs_[s]->MakePlan(layer, nullptr);
        ++s;
        continue;
      }
      // Neighbours that want the same prediction share its projections.
      size_t end = s + 1;
      while (end < runs_.size() && RequestOf(end) == request) ++end;
      const int32_t first = offsets_[s];
      THRESHER_RETURN_IF_ERROR(encoder_.PredictProjections(
          static_cast<size_t>(layer), request,
          workspace_.encoder.hidden().Rows(first, offsets_[end] - first), workspace_.prediction));
      for (; s < end; ++s) {
        const Prediction prediction(encoder_, layer, request, workspace_.prediction,
                                    offsets_[s] - first, runs_[s]->rows());
        plans_[s] = runs_[s]->MakePlan(layer, &prediction);
        THRESHER_RETURN_IF_ERROR(prediction.status());
      }
    }
    return absl::OkStatus();
  }

  absl::Status ChooseFromScores(int32_t layer) {
    for (size_t s = 0; s < runs_.size(); ++s) {
      SequenceRun& run = *runs_[s];
      if (!run.sparse()) continue;
      const LayerVectors vectors = {
          .query = workspace_.encoder.query().Rows(offsets_[s], run.rows()),
          .key = workspace_.encoder.key().Rows(offsets_[s], run.rows()),
          .scale = encoder_.attention_scale()};
      const PredictionRequest request = RequestOf(s);
      if (!request.wanted() || request.from_input()) {
        run.ChooseFromScores(layer, vectors, nullptr);
        continue;
      }
      THRESHER_RETURN_IF_ERROR(encoder_.EncodeVectors(
          static_cast<size_t>(layer), request, vectors.query, vectors.key, workspace_.prediction));
      const Prediction prediction(encoder_, layer, request, workspace_.prediction, 0, run.rows());
      run.ChooseFromScores(layer, vectors, &prediction);
      THRESHER_RETURN_IF_ERROR(prediction.status());
    }
    return absl::OkStatus();
  }

  absl::Status Price(int32_t layer) {
    std::vector<SequenceRecord> sequences;
    std::vector<v1::Simulation*> charges;
    for (size_t s = 0; s < runs_.size(); ++s) {
      sequences.push_back(runs_[s]->Record(records_[s]));
      charges.push_back(runs_[s]->simulation());
    }
    return pricing_.Price(layer, std::move(sequences), charges);
  }

  /// Takes the rows that the sequences `leaving` drop out of the hidden states: survivors move up,
  /// in order.
  void Compact(int32_t layer, bool (SequenceRun::*leaving)() const) {
    if (std::ranges::none_of(runs_, [&](const auto& run) { return (*run.*leaving)(); })) return;
    const Matrix hidden = workspace_.encoder.hidden();
    std::vector<int32_t> offsets = {0};
    for (size_t s = 0; s < runs_.size(); ++s) {
      SequenceRun& run = *runs_[s];
      const Matrix rows = hidden.Rows(offsets_[s], run.rows());
      if ((run.*leaving)()) {
        run.Drop(layer, rows, workspace_.result.view());
        GatherRows(rows, run.kept_rows(), hidden.Rows(offsets.back(), run.rows()));
      } else if (offsets.back() < offsets_[s]) {
        std::copy_n(rows.data, rows.rows * rows.cols, hidden.row(offsets.back()));
      }
      offsets.push_back(offsets.back() + run.rows());
    }
    offsets_ = std::move(offsets);
    workspace_.encoder.Shrink(offsets_.back());
  }

  const Encoder& encoder_;
  const PolicyShape& shape_;
  LayerPricing& pricing_;
  PolicyWorkspace& workspace_;
  std::vector<int32_t> offsets_;
  std::vector<std::unique_ptr<SequenceRun>> runs_;
  std::vector<const SequencePlan*> plans_;
  std::vector<AttentionRecord> records_;
  std::vector<SpeculationRecord> speculation_;
};

}  // namespace

absl::Status ForwardUnderPolicies(const Encoder& encoder, const PolicyShape& shape,
                                  const RaggedBatch& batch, std::span<const PolicyRequest> requests,
                                  LayerPricing& pricing, PolicyWorkspace& workspace,
                                  ConstMatrix* hidden, std::span<v1::PruningReport> reports) {
  THRESHER_RETURN_IF_ERROR(encoder.Embed(batch, workspace.encoder));
  workspace.result.Resize(batch.tokens(), workspace.encoder.hidden().cols);
  BatchRun run(encoder, shape, batch, requests, pricing, workspace, reports);
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    THRESHER_RETURN_IF_ERROR(run.RunLayer(layer));
  }
  *hidden = run.Finish(batch.tokens());
  return absl::OkStatus();
}

}  // namespace thresher
