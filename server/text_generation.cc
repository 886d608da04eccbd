#include "server/text_generation.h"

#include <atomic>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/tensor/status.h"
#include "backend/text/text_assembler.h"
#include "server/generation_metrics.h"
#include "server/grpc_status.h"
#include "server/request_account.h"
#include "server/text_request.h"

namespace thresher {
namespace {

using Model = std::shared_ptr<const ServedModel>;

absl::Time Now() { return Clock::Real()->Now(); }

/// What the reports and the metrics ask of a text.
ReportDetail Detail(Metrics& metrics, const ServedModel& model, bool explain) {
  if (explain) return {true, true, true, true};
  return metrics.NextDetail(model.name);
}

/// Counts what ran, and takes out of the report what is no part of the answer.
void Account(Metrics& metrics, const ServedModel& model, const std::string& policy, bool explain,
             GenerationResult* result) {
  metrics.TextsOf(model.name).OnEnd(*result, policy);
  Account(metrics, model.name, policy, explain, &result->report);
}

void FillTop(const Tokenizer& tokenizer, const TextToken& token,
             google::protobuf::RepeatedPtrField<v1::TokenLogprob>* out) {
  for (const auto& [logprob, id] : token.top) {
    v1::TokenLogprob* one = out->Add();
    one->set_id(id);
    one->set_token(std::string(tokenizer.TokenText(id)));
    one->set_logprob(static_cast<float>(logprob));
  }
}

int64_t Bytes(const v1::Input& input) {
  const size_t ids = static_cast<size_t>(input.token_ids_size() + input.token_type_ids_size());
  return static_cast<int64_t>(input.text().size() + input.pair().size() + ids * sizeof(int32_t));
}

absl::Status CheckCaller(const TextGeneration::Context& context) {
  if (Now() >= context.deadline) {
    return DeadlineExceeded("the deadline had passed when the call arrived");
  }
  if (context.cancelled && context.cancelled()) return Cancelled("the caller cancelled the call");
  return absl::OkStatus();
}

void FillModel(const ServedModel& model, v1::ModelSpec* out) {
  out->set_name(model.name);
  out->set_version(model.version);
}

}  // namespace

// ---- Generate ----

/// One text. The executor hands it tokens; an answering thread ends it, since there the model may
/// be let go of.
class TextGeneration::Text final : public GenerationSink,
                                   public std::enable_shared_from_this<Text> {
 public:
  Text(Inference* inference, Method method, Model model, HeldInput input,
       const v1::GenerateRequest& request, const TextRequest& text, const Context& context,
       std::shared_ptr<TextReceiver> receiver)
      : inference_(inference),
        method_(method),
        input_(std::move(input)),
        arrival_(context.arrival),
        policy_(PolicyName(text.generation.policy.get())),
        seed_(text.greedy ? 0 : text.generation.sampling.seed),
        explain_(request.options().sparsity().explain()),
        model_(std::move(model)),
        series_(inference->metrics().TextsOf(model_->name)),
        receiver_(std::move(receiver)),
        assembler_(std::in_place, *model_->model->tokenizer,
                   std::vector<std::string>(request.stop().begin(), request.stop().end())) {
    for (const int32_t id : text.generation.prompt) {
      v1::GeneratedToken token;
      token.set_text(assembler_->PushPrompt(id));
      if (!request.echo()) continue;
      token.set_id(id);
      token.set_prompt(true);
      echo_.push_back(std::move(token));
    }
    tokenize_ = Now() - context.arrival;
  }

  absl::Duration tokenize() const { return tokenize_; }

  Next OnToken(const TextToken& token) override {
    if (token.prompt) {
      v1::GeneratedToken out = std::move(echo_.front());
      echo_.pop_front();
      FillLogprobs(token, &out);
      return receiver_->OnToken(std::move(out)) ? Next::kGoOn : Next::kPause;
    }
    const absl::Time now = Now();
    if (last_token_) {
      series_.OnNextToken(now - *last_token_);
    } else {
      first_token_ = now - arrival_;
      series_.OnFirstToken(first_token_);
    }
    last_token_ = now;
    bool more = Echo();
    v1::GeneratedToken out;
    out.set_id(token.id);
    out.set_text(assembler_->Push(token.id));
    FillLogprobs(token, &out);
    more = receiver_->OnToken(std::move(out)) && more;
    if (assembler_->stopped()) return Next::kStop;
    return more ? Next::kGoOn : Next::kPause;
  }

  void OnEnd(absl::StatusOr<GenerationResult> result) override {
    inference_->RunLater([self = shared_from_this(), result = std::move(result)]() mutable {
      self->End(std::move(result));
    });
  }

 private:
  /// The prompt's tokens, where the generator does not hand them on.
  bool Echo() {
    bool more = true;
    for (; !echo_.empty(); echo_.pop_front()) more = receiver_->OnToken(std::move(echo_.front()));
    return more;
  }

  void FillLogprobs(const TextToken& token, v1::GeneratedToken* out) const {
    if (token.logprob) out->set_logprob(static_cast<float>(*token.logprob));
    FillTop(*model_->model->tokenizer, token, out->mutable_top());
  }

  void End(absl::StatusOr<GenerationResult> result) {
    const Model model = std::move(model_);
    input_.reset();
    Metrics& metrics = inference_->metrics();
    RequestTimes times;
    times.tokenize = tokenize_;
    if (result.ok()) {
      times.queue = result->queue;
      times.compute = result->compute;
    }
    times.total = Now() - arrival_;
    metrics.OnRequest(model->name, method_, result.status(), times);
    InferenceStatistics& statistics = inference_->statistics();
    if (!result.ok()) {
      statistics.OnFailure(model->name, model->version, times.total);
      assembler_.reset();
      return receiver_->OnEnd(result.status());
    }
    const BatchShare share = {1, result->compute};
    statistics.OnSuccess(model->name, model->version, times, std::span(&share, 1));
    Account(metrics, *model, policy_, explain_, &*result);
    Echo();
    v1::GenerateEnd end;
    end.set_text(assembler_->Finish());
    const bool stop = result->reason == FinishReason::kStop || assembler_->stopped();
    assembler_.reset();  // Before its model.
    end.set_finish_reason(stop ? "stop" : "length");
    v1::GenerateUsage* usage = end.mutable_usage();
    usage->set_prompt_tokens(result->prompt_tokens);
    usage->set_generated_tokens(result->generated_tokens);
    usage->set_cached_prompt_tokens(result->cached_prompt_tokens);
    if (!last_token_) first_token_ = times.total;  // An end-of-text token, which is not handed on.
    v1::GenerateTimings* timings = end.mutable_timings();
    timings->set_queue(absl::ToDoubleSeconds(times.queue));
    timings->set_tokenize(absl::ToDoubleSeconds(times.tokenize));
    timings->set_first_token(absl::ToDoubleSeconds(first_token_));
    timings->set_compute(absl::ToDoubleSeconds(times.compute));
    timings->set_total(absl::ToDoubleSeconds(times.total));
    *end.mutable_report() = std::move(result->report);
    end.set_seed(seed_);
    FillModel(*model, end.mutable_model());
    receiver_->OnEnd(std::move(end));
  }

  Inference* const inference_;
  const Method method_;
  HeldInput input_;  // Until the end.
  const absl::Time arrival_;
  const std::string policy_;
  const uint64_t seed_;
  const bool explain_;
  Model model_;  // Until the end.
  TextSeries& series_;
  const std::shared_ptr<TextReceiver> receiver_;
  std::optional<TextAssembler> assembler_;
  std::deque<v1::GeneratedToken> echo_;  // Still to be handed on.
  absl::Duration tokenize_;
  absl::Duration first_token_;
  std::optional<absl::Time> last_token_;
};

absl::Status TextGeneration::CheckBegin(const ServedModel& model, const Context& context,
                                        size_t texts) {
  THRESHER_RETURN_IF_ERROR(CheckCaller(context));
  return model.generator->CheckRoom(texts);
}

absl::StatusOr<TextGeneration::Handle> TextGeneration::Generate(
    const v1::GenerateRequest& request, const Context& context,
    std::shared_ptr<TextReceiver> receiver) {
  const v1::ModelSpec& spec = request.model();
  THRESHER_ASSIGN_OR_RETURN(const Model model,
                            inference_->Admit(Method::kGenerate, spec.name(), spec.version(), 1));
  return Generate(Method::kGenerate, model, request, context, std::move(receiver));
}

absl::StatusOr<TextGeneration::Handle> TextGeneration::Generate(
    Method method, const Model& model, const v1::GenerateRequest& request, const Context& context,
    std::shared_ptr<TextReceiver> receiver) {
  auto handle = [&]() -> absl::StatusOr<Handle> {
    THRESHER_RETURN_IF_ERROR(CheckBegin(*model, context, 1));
    THRESHER_ASSIGN_OR_RETURN(HeldInput input, inference_->HoldInput(Bytes(request.prompt())));
    THRESHER_ASSIGN_OR_RETURN(TextRequest text, MakeTextRequest(*model, request));
    auto sink = std::make_shared<Text>(inference_, method, model, std::move(input), request, text,
                                       context, std::move(receiver));
    text.generation.detail =
        Detail(inference_->metrics(), *model, request.options().sparsity().explain());
    text.generation.deadline = context.deadline;
    return model->generator->Submit(std::move(text.generation), std::move(sink));
  }();
  if (!handle.ok()) return inference_->Refuse(method, model->name, 1, handle.status());
  return handle;
}

// ---- Score ----

/// A call and its texts; the last to end answers.
class TextGeneration::ScoreCall final : public GenerationHandle,
                                        public std::enable_shared_from_this<ScoreCall> {
 public:
  ScoreCall(Inference* inference, Model model, HeldInput input, const v1::ScoreRequest& request,
            const Context& context, ScoreDone done)
      : inference_(inference),
        input_(std::move(input)),
        arrival_(context.arrival),
        explain_(request.options().sparsity().explain()),
        per_token_(request.per_token()),
        model_(std::move(model)),
        done_(std::move(done)),
        inputs_(static_cast<size_t>(request.inputs_size())),
        waiting_(request.inputs_size()) {}

  void Start(const v1::ScoreRequest& request, const std::shared_ptr<const Policy>& policy,
             const Context& context) {
    const Model model = model_;  // The last text to end lets go of the call's.
    policy_ = PolicyName(policy.get());
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (absl::Status status = CheckCaller(context); !status.ok()) {
        Later(i, status);
        continue;
      }
      const absl::Time begin = Now();
      auto text = MakeScoreRequest(*model, request.inputs(static_cast<int>(i)),
                                   request.options().truncate());
      inputs_[i].times.tokenize = Now() - begin;
      if (!text.ok()) {
        Later(i, text.status());
        continue;
      }
      inputs_[i].truncated = text->truncated;
      GenerationRequest& generation = text->generation;
      generation.policy = policy;
      generation.priority = request.options().priority();
      generation.deadline = context.deadline;
      generation.detail = Detail(inference_->metrics(), *model, explain_);
      auto handle = model->generator->Submit(std::move(generation),
                                             std::make_shared<Sink>(shared_from_this(), i));
      if (!handle.ok()) {
        Later(i, handle.status());
        continue;
      }
      bool cancelled;
      {
        MutexLock lock(&mutex_);
        handles_.push_back(*handle);
        cancelled = cancelled_;
      }
      if (cancelled) (*handle)->Cancel();
    }
  }

  void Resume() override {}  // Nothing here is ever paused.
  void Cancel() override {
    std::vector<Handle> handles;
    {
      MutexLock lock(&mutex_);
      cancelled_ = true;
      handles = handles_;
    }
    for (const Handle& handle : handles) handle->Cancel();
  }

 private:
  struct Input {
    v1::TextScore score;  // Of the tokens so far.
    absl::StatusOr<GenerationResult> result = Internal("it has not ended");
    RequestTimes times;
    bool truncated = false;
  };

  class Sink final : public GenerationSink {
   public:
    Sink(std::shared_ptr<ScoreCall> call, size_t i) : call_(std::move(call)), i_(i) {}
    Next OnToken(const TextToken& token) override {
      call_->Add(token, &call_->inputs_[i_].score);
      return Next::kGoOn;
    }
    void OnEnd(absl::StatusOr<GenerationResult> result) override {
      call_->Later(i_, std::move(result));
    }

   private:
    const std::shared_ptr<ScoreCall> call_;
    const size_t i_;
  };

  void Add(const TextToken& token, v1::TextScore* score) const {
    if (!token.logprob) return;  // Nothing is before the first.
    score->set_logprob(score->logprob() + *token.logprob);
    score->set_scored_tokens(score->scored_tokens() + 1);
    if (!per_token_) return;
    v1::TokenLogprob* one = score->add_tokens();
    one->set_id(token.id);
    one->set_token(std::string(model_->model->tokenizer->TokenText(token.id)));
    one->set_logprob(static_cast<float>(*token.logprob));
  }

  /// Ends input i on an answering thread.
  void Later(size_t i, absl::StatusOr<GenerationResult> result) {
    Input& input = inputs_[i];
    input.result = std::move(result);
    input.times.total = Now() - arrival_;
    if (input.result.ok()) {
      input.times.queue = input.result->queue;
      input.times.compute = input.result->compute;
    }
    if (waiting_.fetch_sub(1) > 1) return;
    inference_->RunLater([self = shared_from_this()] { self->Answer(); });
  }

  void Answer() {
    const Model model = std::move(model_);
    input_.reset();
    Metrics& metrics = inference_->metrics();
    InferenceStatistics& statistics = inference_->statistics();
    v1::ScoreResponse response;
    FillModel(*model, response.mutable_model());
    std::vector<absl::Status> ends;
    std::vector<BatchShare> shares;
    RequestTimes slowest;
    for (Input& input : inputs_) {
      const absl::Status status = input.result.status();
      ends.push_back(status);
      metrics.OnRequest(model->name, Method::kScore, status, input.times);
      if (input.times.parts() > slowest.parts()) slowest = input.times;
      if (status.ok()) {
        Account(metrics, *model, policy_, explain_, &*input.result);
        shares.push_back({1, input.result->compute});
      }
      Fill(&input, response.add_results());
    }
    slowest.total = Now() - arrival_;
    *response.mutable_timings() = ToProto(slowest);
    const absl::Status status = WholeCallStatus(ends, /*all_or_none=*/false);
    {
      MutexLock lock(&mutex_);
      handles_.clear();
    }
    if (!status.ok()) {
      statistics.OnFailure(model->name, model->version, slowest.total);
      return done_(status);
    }
    statistics.OnSuccess(model->name, model->version, slowest, shares);
    done_(std::move(response));
  }

  static void Fill(Input* input, v1::TextScore* out) {
    if (input->result.ok()) *out = std::move(input->score);
    v1::ResultInfo* info = out->mutable_info();
    *info->mutable_timings() = ToProto(input->times);
    *info->mutable_status() = ToProto(input->result.status());
    if (!input->result.ok()) return;
    info->set_tokens(input->result->prompt_tokens);
    info->set_truncated(input->truncated);
    *info->mutable_report() = std::move(input->result->report);
  }

  Inference* const inference_;
  HeldInput input_;  // Until the answer.
  const absl::Time arrival_;
  const bool explain_;
  const bool per_token_;
  std::string policy_;
  Model model_;  // Until the answer.
  const ScoreDone done_;
  std::vector<Input> inputs_;  // Each its text's alone, until that has ended.
  std::atomic<int> waiting_;
  Mutex mutex_;
  bool cancelled_ = false;
  std::vector<Handle> handles_;
};

absl::StatusOr<TextGeneration::Handle> TextGeneration::Score(const v1::ScoreRequest& request,
                                                             const Context& context,
                                                             ScoreDone done) {
  const v1::ModelSpec& spec = request.model();
  const auto count = static_cast<size_t>(request.inputs_size());
  THRESHER_ASSIGN_OR_RETURN(const Model model,
                            inference_->Admit(Method::kScore, spec.name(), spec.version(), count));
  auto handle = [&]() -> absl::StatusOr<Handle> {
    THRESHER_RETURN_IF_ERROR(CheckBegin(*model, context, count));
    int64_t bytes = 0;
    for (const v1::Input& input : request.inputs()) bytes += Bytes(input);
    THRESHER_ASSIGN_OR_RETURN(HeldInput held, inference_->HoldInput(bytes));
    THRESHER_ASSIGN_OR_RETURN(const std::shared_ptr<const Policy> policy,
                              TextPolicy(*model, request.options().sparsity()));
    auto call = std::make_shared<ScoreCall>(inference_, model, std::move(held), request, context,
                                            std::move(done));
    call->Start(request, policy, context);
    return call;
  }();
  if (!handle.ok()) return inference_->Refuse(Method::kScore, model->name, count, handle.status());
  return handle;
}

}  // namespace thresher
