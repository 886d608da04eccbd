#include "server/inference.h"

#include <algorithm>
#include <utility>

#include "backend/evaluation/quality.h"
#include "backend/scheduler/retry_hint.h"
#include "backend/tensor/status.h"
#include "server/request_account.h"

namespace thresher {
namespace {

absl::Time Now() { return Clock::Real()->Now(); }

/// The head that a method needs; kNone: any model will do, but kEmbed wants an encoder.
Task TaskOf(Method method) {
  switch (method) {
    case Method::kClassify:
      return Task::kSequenceClassification;
    case Method::kTokenClassify:
      return Task::kTokenClassification;
    case Method::kAnswer:
      return Task::kQuestionAnswering;
    case Method::kGenerate:
    case Method::kScore:
      return Task::kGeneration;
    case Method::kEmbed:
    case Method::kTokenize:
    case Method::kModelInfer:
      break;
  }
  return Task::kNone;
}

absl::StatusOr<Encoding> Encode(const InferenceRequest& request, const InferenceInput& input) {
  const ServedModel& model = *request.model;
  if (!input.ids.empty()) {
    if (!input.text.empty() || input.pair) {
      return InvalidArgument("both a text and token ids; send one of them");
    }
    if (!input.type_ids.empty() && input.type_ids.size() != input.ids.size()) {
      return InvalidArgument("{} token type ids for {} token ids", input.type_ids.size(),
                             input.ids.size());
    }
    Encoding encoding;
    encoding.tokens.resize(input.ids.size());
    for (size_t i = 0; i < input.ids.size(); ++i) {
      encoding.tokens[i].id = input.ids[i];
      if (!input.type_ids.empty()) encoding.tokens[i].type_id = input.type_ids[i];
    }
    const auto limit = static_cast<size_t>(std::max(model.model->info.max_tokens, 0));
    if (request.truncate && limit > 0 && encoding.tokens.size() > limit) {
      encoding.tokens.resize(limit);
      encoding.truncated = true;
    }
    return encoding;
  }
  if (!input.type_ids.empty()) {
    return InvalidArgument("token type ids without token ids; the tokenizer makes them for a text");
  }
  if (input.text.empty()) return InvalidArgument("empty text");
  if (input.pair && input.pair->empty()) return InvalidArgument("empty second text of a pair");
  EncodeOptions options;
  options.add_special_tokens = request.add_special_tokens;
  options.max_tokens = model.model->info.max_tokens;
  options.truncate = request.truncate;
  const Tokenizer& tokenizer = *model.model->tokenizer;
  return input.pair ? tokenizer.EncodePair(input.text, *input.pair, options)
                    : tokenizer.Encode(input.text, options);
}

bool Embeds(const InferenceRequest& request) {
  return request.method == Method::kEmbed ||
         (request.method == Method::kModelInfer && request.model->model->info.task == Task::kNone);
}

/// What the quality of a call's answers is measured in (EngineRunner does it); INVALID_ARGUMENT
/// where calibration measures nothing that these answers are.
absl::StatusOr<Measure> MeasureOfAnswers(const InferenceRequest& request) {
  const ModelInfo& info = request.model->model->info;
  const bool classifier = info.task == Task::kSequenceClassification;
  const bool one_output = classifier && info.labels.size() == 1;
  const auto unmeasured = [&](std::string_view why) {
    return InvalidArgument(
        "max_quality_loss: no quality profile of model '{}' can hold for {}: {}; choose a policy "
        "by sparsity instead, and see what it costs: thresher evaluate",
        request.model->name, Name(request.method), why);
  };
  if (Embeds(request)) {
    if (one_output) return unmeasured("what is measured of a head with one output is that output");
    if (request.pooling.value_or(info.pooling) != info.pooling) {
      return unmeasured("embeddings are measured with the model's own pooling");
    }
    return Measure::kSimilarity;
  }
  if (!classifier || info.multi_label) {
    return unmeasured("what is measured are classes of texts, one each, and embeddings");
  }
  return one_output ? Measure::kSimilarity : Measure::kAccuracy;
}

std::string_view TaskFlag(Measure measure) {
  return measure == Measure::kAccuracy ? "accuracy" : "similarity";
}

Sequence ToSequence(const InferenceRequest& request, const Encoding& encoding) {
  const ModelInfo& info = request.model->model->info;
  Sequence sequence;
  sequence.ids.reserve(encoding.tokens.size());
  bool typed = false;
  for (const EncodedToken& token : encoding.tokens) {
    sequence.ids.push_back(token.id);
    typed |= token.type_id != 0;
  }
  if (typed) {
    for (const EncodedToken& token : encoding.tokens) sequence.type_ids.push_back(token.type_id);
  }
  const bool embed = Embeds(request);
  sequence.want_embedding = embed;
  sequence.want_logits = !embed;
  sequence.pooling = request.pooling.value_or(info.pooling);
  sequence.normalize = request.normalize.value_or(info.normalize);
  return sequence;
}

}  // namespace

std::string_view TaskName(Task task) {
  switch (task) {
    case Task::kNone:
      break;
    case Task::kSequenceClassification:
      return "sequence classification";
    case Task::kTokenClassification:
      return "token classification";
    case Task::kQuestionAnswering:
      return "question answering";
    case Task::kGeneration:
      return "text generation";
  }
  return "embedding";
}

absl::Status WholeCallStatus(std::span<const absl::Status> inputs, bool all_or_none) {
  if (all_or_none) {
    for (const absl::Status& status : inputs) THRESHER_RETURN_IF_ERROR(status);
    return absl::OkStatus();
  }
  const absl::Status& first = inputs.front();
  if (first.ok() || inputs.size() == 1) return first;
  if (absl::IsInvalidArgument(first)) return absl::OkStatus();
  const bool same = std::all_of(inputs.begin(), inputs.end(), [&](const absl::Status& status) {
    return status.code() == first.code();
  });
  return same ? first : absl::OkStatus();
}

/// A call between Run and its answer. Shared by its jobs; the last to end answers.
class Inference::Call : public std::enable_shared_from_this<Inference::Call> {
 public:
  Call(Inference* inference, InferenceRequest request, InferenceDone done)
      : inference_(inference), request_(std::move(request)), done_(std::move(done)) {
    answer_.model = request_.model;
    answer_.results.resize(request_.inputs.size());
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void Start() {
    if (absl::Status status = ParsePolicy(); !status.ok()) return Fail(status);
    if (absl::Status status = CheckRoom(); !status.ok()) return Fail(status);
    if (Now() >= request_.deadline) {
      return Fail(DeadlineExceeded("the deadline had passed when the call arrived"));
    }
    std::vector<Job> jobs;
    for (size_t i = 0; i < request_.inputs.size(); ++i) {
      if (request_.cancelled && request_.cancelled->load()) {
        return Fail(Cancelled("the caller cancelled the call"));
      }
      if (absl::Status status = Prepare(i, &jobs); !status.ok()) {
        End(i, status);
        if (request_.all_or_none) return Fail(answer_.results[i].status);
      }
    }
    if (jobs.empty()) return Answer();
    waiting_ = static_cast<int>(jobs.size());
    if (absl::Status status = inference_->scheduler_->Submit(std::move(jobs)); !status.ok()) {
      Fail(status);
    }
  }

 private:
  /// Before anything is spent on the call.
  absl::Status CheckRoom() {
    int64_t bytes = 0;
    for (const InferenceInput& input : request_.inputs) {
      bytes += static_cast<int64_t>(input.text.size() + input.pair.value_or("").size() +
                                    input.ids.size_bytes() + input.type_ids.size_bytes());
    }
    THRESHER_ASSIGN_OR_RETURN(input_, inference_->HoldInput(bytes));
    if (!computes()) return absl::OkStatus();
    Job job;
    job.engine = request_.model->engine;
    job.deadline = request_.deadline;
    job.priority = request_.priority;
    return inference_->scheduler_->CheckRoom(job, request_.inputs.size());
  }

  absl::Status ParsePolicy() {
    if (request_.max_quality_loss) return ChooseByQuality(*request_.max_quality_loss);
    if (request_.policy.empty()) return absl::OkStatus();
    auto policy = request_.model->engine->ParsePolicy(request_.policy);
    if (!policy.ok()) return Annotate(policy.status(), "sparsity");
    policy_ = *std::move(policy);
    return absl::OkStatus();
  }

  absl::Status ChooseByQuality(double max_loss) {
    if (!request_.policy.empty()) {
      return InvalidArgument("both sparsity and max_quality_loss; send one of them");
    }
    if (!(max_loss >= 0 && max_loss <= 1)) {  // Written so that NaN fails too.
      return InvalidArgument("max_quality_loss: {} is not in [0, 1]; 0.01 is one point", max_loss);
    }
    const ServedModel& model = *request_.model;
    THRESHER_ASSIGN_OR_RETURN(const Measure measure, MeasureOfAnswers(request_));
    const std::string command =
        fmt::format("thresher calibrate --model {} --data LABELLED.tsv --max-loss {} --task {}",
                    model.directory, max_loss > 0 ? max_loss : 0.01, TaskFlag(measure));
    if (!model.quality.ok()) {
      return InvalidArgument(
          "max_quality_loss: model '{}' has no quality profile that could be used ({}); make one "
          "and reload the model: {}",
          model.name, Message(model.quality.status()), command);
    }
    if (model.quality->measure() != measure) {
      return InvalidArgument(
          "max_quality_loss: the quality profile of model '{}' was measured in {}, which promises "
          "nothing for {}, whose quality is measured in {}; make one for it and reload the model: "
          "{}",
          model.name, LossMetric(model.quality->measure()), Name(request_.method),
          LossMetric(measure), command);
    }
    const double level = inference_->ElasticLevel();
    const bool active = !model.profile_watch->failed();
    if (const auto* entry = active ? model.quality->Choose(max_loss * level) : nullptr) {
      policy_ = entry->policy;
      profile_entry_ = static_cast<size_t>(entry - model.quality->entries().data());
    }
    if (inference_->options_.elastic) inference_->metrics_->OnElastic(model.name, level);
    return absl::OkStatus();
  }

  absl::Status Prepare(size_t i, std::vector<Job>* jobs) {
    InferenceResult& result = answer_.results[i];
    const absl::Time begin = Now();
    auto encoding = Encode(request_, request_.inputs[i]);
    result.times.tokenize = Now() - begin;
    if (!encoding.ok()) return encoding.status();
    result.encoding = *std::move(encoding);
    if (!computes()) {
      End(i, absl::OkStatus());
      return absl::OkStatus();
    }
    Job job;
    job.sequence = ToSequence(request_, result.encoding);
    job.sequence.policy = policy_;
    job.sequence.detail = inference_->metrics_->NextDetail(request_.model->name);
    if (request_.explain) job.sequence.detail = {true, true, true, true};
    job.engine = request_.model->engine;
    THRESHER_RETURN_IF_ERROR(job.engine->Validate(job.sequence));
    job.deadline = request_.deadline;
    job.priority = request_.priority;
    job.cancelled = request_.cancelled;
    job.done = [call = shared_from_this(), i](absl::StatusOr<JobResult> job_result) {
      call->OnJobDone(i, std::move(job_result));
    };
    jobs->push_back(std::move(job));
    return absl::OkStatus();
  }

  void OnJobDone(size_t i, absl::StatusOr<JobResult> job_result) {
    InferenceResult& result = answer_.results[i];
    if (job_result.ok()) {
      result.output = std::move(job_result->output);
      result.times.queue = job_result->queue;
      result.times.compute = job_result->compute;
      result.batch_sequences = job_result->batch_sequences;
      result.batch_tokens = job_result->batch_tokens;
    }
    End(i, job_result.status());
    if (waiting_.fetch_sub(1) > 1) return;
    // A change of threads costs more than a small answer: the executor gives that itself, unless
    // there is work that it would keep waiting.
    if (answer_.results.size() == 1 && inference_->scheduler_->snapshot().queued == 0) {
      return Answer();
    }
    inference_->answer_threads_.Run([call = shared_from_this()] { call->Answer(); });
  }

  /// Input i has its result, or failed.
  void End(size_t i, const absl::Status& status) {
    InferenceResult& result = answer_.results[i];
    // Of a result its place says which it is; of a whole call nothing else would.
    result.status =
        request_.all_or_none ? Annotate(status, fmt::format("{} {}", request_.noun, i)) : status;
    result.times.total = Now() - request_.arrival;
  }

  void Answer() {
    RequestTimes& times = answer_.times;
    const std::string policy = PolicyName(policy_.get());
    std::vector<BatchShare> shares;
    std::vector<absl::Status> ends;
    for (InferenceResult& result : answer_.results) {
      ends.push_back(result.status);
      Count(result.status, result.times);
      if (computes() && result.status.ok()) {
        Account(*inference_->metrics_, request_.model->name, policy, request_.explain,
                &result.output.report);
        if (policy_ != nullptr && !policy_->is_dense() && inference_->shadow_.Next()) {
          inference_->shadow_.Check(request_.model, ToSequence(request_, result.encoding),
                                    result.output, profile_entry_);
        }
      }
      shares.push_back({result.batch_sequences, result.times.compute});
      if (result.times.parts() > times.parts()) times = result.times;
    }
    times.total = Now() - request_.arrival;
    const absl::Status status = WholeCallStatus(ends, request_.all_or_none);
    if (!status.ok()) {
      CountFailure(times.total);
      return done_(status);
    }
    if (computes()) {
      inference_->statistics_.OnSuccess(request_.model->name, request_.model->version, times,
                                        shares);
    }
    done_(std::move(answer_));
  }

  /// Nothing was computed and nothing will be.
  void Fail(const absl::Status& status) {
    for (const InferenceResult& result : answer_.results) {
      // An input with a fault of its own keeps it.
      Count(result.status.ok() ? status : result.status, result.times);
    }
    CountFailure(Now() - request_.arrival);
    done_(status);
  }

  /// Tokenizing alone is no inference.
  bool computes() const { return request_.method != Method::kTokenize; }

  void Count(const absl::Status& status, const RequestTimes& times) {
    inference_->metrics_->OnRequest(request_.model->name, request_.method, status, times);
  }

  void CountFailure(absl::Duration total) {
    if (!computes()) return;
    inference_->statistics_.OnFailure(request_.model->name, request_.model->version, total);
  }

  Inference* const inference_;
  const InferenceRequest request_;
  const InferenceDone done_;
  std::shared_ptr<const Policy> policy_;  // Null: dense.
  std::optional<size_t> profile_entry_;   // That chose the policy.
  InferenceAnswer answer_;
  std::atomic<int> waiting_ = 0;
  HeldInput input_;
};

Inference::Inference(const Options& options, ModelFinder find, Scheduler* scheduler,
                     Metrics* metrics)
    : options_(options),
      find_(std::move(find)),
      scheduler_(scheduler),
      metrics_(metrics),
      shadow_(options.shadow_every, scheduler, metrics),
      answer_threads_(options.answer_threads) {}

absl::StatusOr<std::shared_ptr<const ServedModel>> Inference::Admit(Method method,
                                                                    std::string_view name,
                                                                    std::string_view version,
                                                                    size_t inputs) {
  auto model = find_(name, version);
  const std::string_view label = model.ok() ? std::string_view((*model)->name) : "";
  const absl::Status refusal = [&]() -> absl::Status {
    if (draining()) return Unavailable("the server is draining; ask another one");
    if (!model.ok()) return model.status();
    if (inputs == 0) return InvalidArgument("no inputs; send at least one");
    if (inputs > static_cast<size_t>(options_.max_inputs)) {
      return InvalidArgument("{} inputs in one call; this server takes at most {}", inputs,
                             options_.max_inputs);
    }
    const ModelInfo& info = (*model)->model->info;
    const Task task = TaskOf(method);
    const bool wrong = task != Task::kNone
                           ? task != info.task
                           : method == Method::kEmbed && info.task == Task::kGeneration;
    if (wrong) {
      return Unimplemented("{} needs a model for {}; '{}' ({}) is one for {}", Name(method),
                           TaskName(task), label, info.architecture, TaskName(info.task));
    }
    return absl::OkStatus();
  }();
  if (!refusal.ok()) return Refuse(method, label, inputs, refusal);
  return model;
}

absl::Status Inference::Refuse(Method method, std::string_view model, size_t inputs,
                               const absl::Status& status) {
  // At least one, so that it is seen; no more than could have been taken.
  const size_t count = std::clamp<size_t>(inputs, 1, static_cast<size_t>(options_.max_inputs));
  for (size_t i = 0; i < count; ++i) metrics_->OnRequest(model, method, status, {});
  return status;
}

double Inference::ElasticLevel() const {
  if (!options_.elastic) return 1.0;
  return std::min(1.0, 2.0 * scheduler_->snapshot().pressure);
}

absl::StatusOr<HeldInput> Inference::HoldInput(int64_t bytes) {
  const int64_t pending = pending_bytes_->fetch_add(bytes) + bytes;
  HeldInput held(nullptr, [total = pending_bytes_, bytes](const void*) { *total -= bytes; });
  if (pending > std::max(options_.max_pending_bytes, bytes)) {
    return WithRetryHint(
        ResourceExhausted("the requests in hand hold {} bytes of input; at most {} may wait",
                          pending, options_.max_pending_bytes),
        absl::Milliseconds(100));
  }
  return held;
}

void Inference::Run(InferenceRequest request, InferenceDone done) {
  std::make_shared<Call>(this, std::move(request), std::move(done))->Start();
}

}  // namespace thresher
