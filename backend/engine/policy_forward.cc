#include "backend/engine/policy_forward.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "backend/device/shape_checks.h"
#include "backend/engine/layer_pricing.h"
#include "backend/engine/ledger.h"
#include "backend/model/rows.h"
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
    plan_.wanted.distribution = request_.detail.distribution;
    predicted_ = prediction != nullptr;
    if (sparse()) run_->BeforeProjection(layer, positions_, prediction, &plan_);
    return &plan_;
  }

  /// Counts the layer and hears what the policy decides.
  void Finish(int32_t layer, const AttentionRecord& record) {
    const SequencePlan* plan = planned() ? &plan_ : nullptr;
    const v1::PruningReport::Work work =
        LayerWork(shape_, tokens_, rows(), plan, predicted_, record);
    AddWork(work, report_->mutable_total());
    if (request_.detail.layers) *report_->add_layers() = work;
    if (plan != nullptr) distribution_.Add(*plan, positions_[0] == 0, record);
    kept_rows_.resize(positions_.size());
    std::iota(kept_rows_.begin(), kept_rows_.end(), 0);
    if (!sparse()) return;
    CascadeDecision decision{.rows = std::move(kept_rows_), .heads = std::move(heads_)};
    run_->AfterAttention(layer, positions_, record, &decision);
    kept_rows_ = std::move(decision.rows);
    heads_ = std::move(decision.heads);
  }

  /// Of the layer that just finished.
  SequenceRecord Record(const AttentionRecord& record) const {
    return RecordOf(shape_, tokens_, positions_, planned() ? &plan_ : nullptr,
                    planned() && predicted_ ? policy().prediction().bits : 0, record,
                    static_cast<int32_t>(kept_rows_.size()), static_cast<int32_t>(heads_.size()));
  }
  v1::Simulation* simulation() { return report_->mutable_simulation(); }

  /// What the policy decided: the rows of the layer that stay.
  std::span<const int32_t> kept_rows() const { return kept_rows_; }
  bool drops() const { return kept_rows_.size() < positions_.size(); }

  /// Copies the rows of `hidden` that are dropped after `layer` to their places in `result`, and
  /// forgets them.
  void Drop(int32_t layer, ConstMatrix hidden, Matrix result) {
    size_t next = 0;
    std::vector<int32_t> kept;
    for (int32_t row = 0; row < rows(); ++row) {
      if (next < kept_rows_.size() && kept_rows_[next] == row) {
        kept.push_back(positions_[row]);
        ++next;
        continue;
      }
      std::copy_n(hidden.row(row), hidden.cols, result.row(first_ + positions_[row]));
      if (request_.detail.tokens) report_->set_token_layers(positions_[row], layer + 1);
    }
    positions_ = std::move(kept);
  }

  /// Copies the rows still present to their places.
  void Deliver(ConstMatrix hidden, Matrix result) const {
    for (int32_t row = 0; row < rows(); ++row) {
      std::copy_n(hidden.row(row), hidden.cols, result.row(first_ + positions_[row]));
    }
  }

  /// After the last layer.
  void FinishReport() { distribution_.Fill(report_); }

 private:
  bool planned() const { return sparse() || request_.detail.distribution; }

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
  std::vector<int32_t> kept_rows_;
  AttentionDistribution distribution_;
};

/// The predicted scores of one sequence: rows [first, first + rows) of the projections.
class Prediction final : public LayerPrediction {
 public:
  Prediction(const Encoder& encoder, int32_t layer, int32_t bits,
             const ScorePredictor::Workspace& projections, int64_t first, int64_t rows)
      : encoder_(encoder),
        layer_(layer),
        bits_(bits),
        projections_(projections),
        first_(first),
        rows_(rows) {}

  void ForEachBlock(std::span<const int32_t> heads, Body body) const override {
    status_.Update(encoder_.PredictScores(static_cast<size_t>(layer_), bits_, projections_, first_,
                                          rows_, heads, body));
  }
  /// The first error; a plan made after one means nothing.
  const absl::Status& status() const { return status_; }

 private:
  const Encoder& encoder_;
  const int32_t layer_;
  const int32_t bits_;
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
    THRESHER_RETURN_IF_ERROR(MakePlans(layer));
    THRESHER_RETURN_IF_ERROR(encoder_.RunLayer(static_cast<size_t>(layer), offsets_, plans_,
                                               records_, workspace_.encoder));
    bool dropped = false;
    for (size_t s = 0; s < runs_.size(); ++s) {
      if (plans_[s] == nullptr) {
        records_[s] = DenseRecord({shape_.heads, shape_.kv_heads, shape_.head_dim},
                                  runs_[s]->rows(), shape_.causal);
      }
      runs_[s]->Finish(layer, records_[s]);
      dropped |= runs_[s]->drops();
    }
    if (pricing_.on()) THRESHER_RETURN_IF_ERROR(Price(layer));
    if (dropped) Compact(layer);
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

  /// Width of the prediction that the policy of sequence s wants; 0: none.
  int32_t PredictionBits(size_t s) const {
    if (!runs_[s]->sparse() || !runs_[s]->policy().prediction().wanted) return 0;
    return runs_[s]->policy().prediction().bits;
  }

  absl::Status MakePlans(int32_t layer) {
    for (size_t s = 0; s < runs_.size();) {
      const int32_t bits = PredictionBits(s);
      if (bits == 0) {
        plans_[s] = runs_[s]->MakePlan(layer, nullptr);
        ++s;
        continue;
      }
      // Neighbours that want the same prediction share its projections.
      size_t end = s + 1;
      while (end < runs_.size() && PredictionBits(end) == bits) ++end;
      const int32_t first = offsets_[s];
      THRESHER_RETURN_IF_ERROR(encoder_.PredictProjections(
          static_cast<size_t>(layer), bits,
          workspace_.encoder.hidden().Rows(first, offsets_[end] - first), workspace_.prediction));
      for (; s < end; ++s) {
        const Prediction prediction(encoder_, layer, bits, workspace_.prediction,
                                    offsets_[s] - first, runs_[s]->rows());
        plans_[s] = runs_[s]->MakePlan(layer, &prediction);
        THRESHER_RETURN_IF_ERROR(prediction.status());
      }
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

  /// Takes the dropped rows out of the hidden states: survivors move up, in order.
  void Compact(int32_t layer) {
    const Matrix hidden = workspace_.encoder.hidden();
    std::vector<int32_t> offsets = {0};
    for (size_t s = 0; s < runs_.size(); ++s) {
      SequenceRun& run = *runs_[s];
      const ConstMatrix rows = Rows(s);
      if (run.drops()) run.Drop(layer, rows, workspace_.result.view());
      GatherRows(rows, run.kept_rows(), hidden.Rows(offsets.back(), run.rows()));
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
