#include "server/shadow_check.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "backend/sparsity/comparison.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr double kBusy = 0.25;
constexpr double kSameDirection = 0.95;

ptrdiff_t Class(std::span<const float> logits) {
  return std::ranges::max_element(logits) - logits.begin();
}

}  // namespace

std::optional<ShadowComparison> CompareWithDense(const ModelInfo& info, const SequenceOutput& dense,
                                                 const SequenceOutput& pruned) {
  if (!pruned.embedding.empty()) {
    if (dense.embedding.size() != pruned.embedding.size()) return std::nullopt;
    const double cosine = CosineSimilarity(dense.embedding, pruned.embedding);
    return ShadowComparison{cosine >= kSameDirection, 1 - cosine};
  }
  const bool classes = (info.task == Task::kSequenceClassification && !info.multi_label) ||
                       info.task == Task::kTokenClassification;
  const auto rows = static_cast<size_t>(pruned.logit_rows);
  const auto cols = static_cast<size_t>(pruned.logit_cols);
  if (!classes || rows == 0 || cols < 2 || dense.logits.size() != rows * cols ||
      pruned.logits.size() != rows * cols) {
    return std::nullopt;
  }
  ShadowComparison result{.agrees = true};
  for (size_t r = 0; r < rows; ++r) {
    const auto right = std::span(dense.logits).subspan(r * cols, cols);
    const auto given = std::span(pruned.logits).subspan(r * cols, cols);
    result.agrees &= Class(right) == Class(given);
    result.drift += KlDivergence(right, given) / static_cast<double>(rows);
  }
  return result;
}

void ShadowCheck::Check(std::shared_ptr<const ServedModel> model, Sequence sequence,
                        SequenceOutput pruned, std::optional<size_t> entry) {
  Metrics* const metrics = metrics_;
  const std::string name = model->name;
  if (scheduler_->snapshot().pressure > kBusy) {
    return metrics->OnShadow(name, ShadowOutcome::kSkipped, 0);
  }
  sequence.policy = nullptr;
  sequence.detail = {};
  Job job;
  job.engine = model->engine;
  job.sequence = std::move(sequence);
  job.priority = std::numeric_limits<int32_t>::min();
  // Not of this object, which the scheduler may outlive.
  job.done = [metrics, model = std::move(model), pruned = std::move(pruned),
              entry](absl::StatusOr<JobResult> dense) {
    if (!dense.ok() || !dense->output.status.ok()) {
      return metrics->OnShadow(model->name, ShadowOutcome::kFailed, 0);
    }
    const auto comparison = CompareWithDense(model->model->info, dense->output, pruned);
    if (!comparison) return;
    metrics->OnShadow(model->name,
                      comparison->agrees ? ShadowOutcome::kAgreed : ShadowOutcome::kDisagreed,
                      comparison->drift);
    if (!entry || !model->profile_watch->Add(*entry, comparison->drift)) return;
    spdlog::error(
        "model '{}' version {}: answers by '{}' drift further from dense than its quality profile "
        "measured; max_quality_loss is served densely until the model is calibrated on texts like "
        "those that are served, and loaded again",
        model->name, model->version, model->quality->entries()[*entry].policy->text());
  };
  std::vector<Job> jobs;
  jobs.push_back(std::move(job));
  if (!scheduler_->Submit(std::move(jobs)).ok()) {
    metrics->OnShadow(name, ShadowOutcome::kSkipped, 0);
  }
}

}  // namespace thresher
