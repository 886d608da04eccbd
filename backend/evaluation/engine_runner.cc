#include "backend/evaluation/engine_runner.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/time/clock.h"
#include "backend/sparsity/comparison.h"
#include "backend/sparsity/report.h"
#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Enough for the scheduler to fill its batches, few enough for its queue.
constexpr size_t kMostInFlight = 512;

absl::StatusOr<Sequence> ToSequence(const LoadedModel& model, absl::StatusOr<Encoding> encoding) {
  if (!encoding.ok()) return encoding.status();
  Sequence sequence;
  for (const EncodedToken& token : encoding->tokens) {
    sequence.ids.push_back(token.id);
    sequence.type_ids.push_back(token.type_id);
  }
  sequence.want_embedding = true;
  sequence.pooling = model.info.pooling;
  sequence.normalize = model.info.normalize;
  return sequence;
}

}  // namespace

absl::StatusOr<Measure> MeasureOf(const ModelInfo& info) {
  if (info.multi_label) {
    return Unimplemented("quality of a model that gives several labels at once");
  }
  switch (info.task) {
    case Task::kSequenceClassification:
      return info.labels.size() > 1 ? Measure::kAccuracy : Measure::kSimilarity;
    case Task::kNone:
      return Measure::kSimilarity;
    case Task::kTokenClassification:
    case Task::kQuestionAnswering:
    case Task::kGeneration:
      break;
  }
  return Unimplemented(
      "quality of {}: what can be evaluated are classifiers of texts, and embeddings by the "
      "similarity of pairs",
      info.architecture);
}

absl::StatusOr<std::unique_ptr<EngineRunner>> EngineRunner::Create(
    std::shared_ptr<LoadedModel> model, Measure measure,
    std::span<const LabelledExample> examples) {
  const ModelInfo& info = model->info;
  const bool classifies = info.task == Task::kSequenceClassification;
  if (measure == Measure::kAccuracy && (!classifies || info.labels.size() < 2)) {
    return InvalidArgument("{} has no classes, so it has no accuracy", info.architecture);
  }
  const bool wants_logits =
      measure == Measure::kAccuracy || (classifies && info.labels.size() == 1);
  const bool embeds_pairs = !wants_logits;
  const EncodeOptions options = {.max_tokens = info.max_tokens, .truncate = true};
  std::vector<Sequence> sequences;
  for (size_t i = 0; i < examples.size(); ++i) {
    const LabelledExample& example = examples[i];
    const auto add = [&](absl::StatusOr<Encoding> encoding) -> absl::Status {
      auto sequence = ToSequence(*model, std::move(encoding));
      if (!sequence.ok()) return Annotate(sequence.status(), fmt::format("example {}", i + 1));
      sequence->want_logits = wants_logits;
      sequences.push_back(*std::move(sequence));
      return absl::OkStatus();
    };
    if (!example.pair) {
      if (embeds_pairs) return InvalidArgument("example {}: similarity needs a pair", i + 1);
      THRESHER_RETURN_IF_ERROR(add(model->tokenizer->Encode(example.text, options)));
    } else if (embeds_pairs) {
      THRESHER_RETURN_IF_ERROR(add(model->tokenizer->Encode(example.text, options)));
      THRESHER_RETURN_IF_ERROR(add(model->tokenizer->Encode(*example.pair, options)));
    } else {
      THRESHER_RETURN_IF_ERROR(
          add(model->tokenizer->EncodePair(example.text, *example.pair, options)));
    }
  }
  for (const Sequence& sequence : sequences) {
    THRESHER_RETURN_IF_ERROR(model->engine->Validate(sequence));
  }
  return std::unique_ptr<EngineRunner>(
      new EngineRunner(std::move(model), embeds_pairs, std::move(sequences)));
}

EngineRunner::EngineRunner(std::shared_ptr<LoadedModel> model, bool embeds_pairs,
                           std::vector<Sequence> sequences)
    : model_(std::move(model)),
      embeds_pairs_(embeds_pairs),
      sequences_(std::move(sequences)),
      scheduler_({}, nullptr) {}

/// A pass while it runs; shared with the executor's thread.
struct EngineRunner::Outcome {
  Mutex mutex;
  CondVar changed;
  absl::Status status;  // The first error.
  size_t submitted = 0;
  size_t done = 0;
  std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);
  Pass pass;

  size_t in_flight() const { return submitted - done; }
};

absl::Status EngineRunner::WarmUp(const std::shared_ptr<const Policy>& policy) {
  std::vector<Sequence> few(sequences_.begin(),
                            sequences_.begin() + std::min<size_t>(sequences_.size(), 32));
  std::vector<const Sequence*> batch;
  for (Sequence& sequence : few) {
    sequence.policy = policy;
    batch.push_back(&sequence);
  }
  std::vector<SequenceOutput> outputs(batch.size());
  return model_->engine->Run(batch, outputs);
}

absl::Status EngineRunner::Submit(size_t index, const std::shared_ptr<const Policy>& policy,
                                  Outcome* outcome) {
  Job job;
  job.engine = std::shared_ptr<Engine>(model_, model_->engine.get());
  job.sequence = sequences_[index];
  job.sequence.policy = policy;
  job.sequence.detail.distribution = measures_attention();
  job.cancelled = outcome->cancelled;
  job.done = [this, index, outcome](absl::StatusOr<JobResult> result) {
    MutexLock lock(&outcome->mutex);
    const absl::Status status = result.ok() ? result->output.status : result.status();
    if (!status.ok()) {
      const size_t example = (embeds_pairs_ ? index / 2 : index) + 1;
      if (outcome->status.ok()) {
        outcome->status = Annotate(status, fmt::format("example {}", example));
      }
    } else {
      SequenceOutput& output = result->output;
      Answer& answer = outcome->pass.answers[index];
      answer.output = std::move(output.logits);
      answer.pooled = std::move(output.embedding);
      AddWork(output.report.total(), &outcome->pass.work);
      outcome->pass.attention.Add(output.report);
      outcome->pass.policy = output.report.policy();
    }
    ++outcome->done;
    outcome->changed.SignalAll();
  };
  std::vector<Job> jobs;
  jobs.push_back(std::move(job));
  return scheduler_.Submit(std::move(jobs));
}

absl::StatusOr<Pass> EngineRunner::Run(std::string_view text, const PassProgress& progress) {
  THRESHER_ASSIGN_OR_RETURN(const auto policy, model_->engine->ParsePolicy(text));
  return Run(policy, progress);
}

absl::StatusOr<Pass> EngineRunner::Run(const std::shared_ptr<const Policy>& policy,
                                       const PassProgress& progress) {
  THRESHER_RETURN_IF_ERROR(WarmUp(policy));

  Outcome outcome;
  outcome.pass.answers.resize(sequences_.size());
  const absl::Time begin = absl::Now();
  absl::Status stopped;
  for (size_t next = 0, shown = 0;;) {
    while (stopped.ok() && next < sequences_.size() && next - shown < kMostInFlight) {
      stopped = Submit(next, policy, &outcome);
      if (!stopped.ok()) break;
      ++next;
      MutexLock lock(&outcome.mutex);
      outcome.submitted = next;
    }
    {
      MutexLock lock(&outcome.mutex);
      if (stopped.ok()) stopped = outcome.status;
      if (!stopped.ok()) outcome.cancelled->store(true);
      const bool more = stopped.ok() && next < sequences_.size();
      // Whatever happens, the jobs that were taken still hold `outcome`.
      while (outcome.in_flight() > (more ? kMostInFlight / 2 : 0)) {
        if (outcome.changed.WaitWithTimeout(&outcome.mutex, absl::Milliseconds(100))) break;
      }
      shown = outcome.done;
      if (outcome.in_flight() == 0 && (!stopped.ok() || next == sequences_.size())) break;
    }
    if (progress && !progress(static_cast<int64_t>(embeds_pairs_ ? shown / 2 : shown))) {
      stopped = Cancelled("stopped");
      outcome.cancelled->store(true);
    }
  }
  outcome.pass.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  if (stopped.ok()) stopped = outcome.status;  // The last ones may have failed.
  THRESHER_RETURN_IF_ERROR(stopped);

  Pass pass = std::move(outcome.pass);
  if (embeds_pairs_) {
    for (size_t i = 0; 2 * i < pass.answers.size(); ++i) {
      std::vector<float>& first = pass.answers[2 * i].pooled;
      const std::vector<float>& second = pass.answers[2 * i + 1].pooled;
      const auto cosine = static_cast<float>(CosineSimilarity(first, second));
      first.insert(first.end(), second.begin(), second.end());
      pass.answers[i] = {.output = {cosine}, .pooled = std::move(first)};
    }
    pass.answers.resize(pass.answers.size() / 2);
  }
  return pass;
}

}  // namespace thresher
