#include "backend/scheduler/generation.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <span>
#include <string>
#include <utility>

#include "backend/scheduler/retry_hint.h"
#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

// What a step costs at least, in dense-token equivalents: however few tokens are in it, all weights
// are read once. Turns with other models' batches are by cost.
constexpr int64_t kLeastStepCost = 64;

// Nobody knows when a text ends: what a caller who finds the queue full is told to wait.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);

/// One text from Submit to OnEnd. But for the atomics only the executor's thread touches it once it
/// was accepted.
struct Text {
  GenerationRequest request;
  std::shared_ptr<GenerationSink> sink;
  absl::Time arrival;
  uint64_t number = 0;
  size_t cache_bytes = 0;
  int32_t most_tokens = 0;  // That it may come to have in all.
  std::atomic<bool> cancelled = false;
  std::atomic<bool> paused = false;
  absl::Time paused_until;  // If it is paused: when it has been for too long.

  // Once it runs.
  CachedTextPtr cached;
  std::optional<Sampler> sampler;
  int32_t prompt_done = 0;  // Tokens of the prompt that the cache has.
  int32_t next = 0;         // The generated token to be run, after the prompt.
  int32_t generated = 0;
  int32_t reused = 0;
  absl::Time start = absl::InfiniteFuture();
  absl::Duration compute;
  // Of the step that runs: what is to be handed on, and the token that was drawn.
  std::vector<TextToken> tokens;
  std::optional<int32_t> drawn;
  absl::Status fault;

  bool reads_prompt() const { return prompt_done < static_cast<int32_t>(request.prompt.size()); }
};

/// In the order of their turns.
bool Before(const std::shared_ptr<Text>& a, const std::shared_ptr<Text>& b) {
  return a->request.priority != b->request.priority ? a->request.priority > b->request.priority
                                                    : a->number < b->number;
}

TextToken MakeToken(std::span<const float> logits, int32_t id, bool logprob, int32_t top) {
  TextToken token{.id = id};
  if (!logprob) return token;
  const double total = LogSum(logits);
  token.logprob = logits[static_cast<size_t>(id)] - total;
  if (top > 0) token.top = TopLogProbabilities(logits, top, total);
  return token;
}

}  // namespace

class Generator::Impl final : public StepSource, public std::enable_shared_from_this<Impl> {
 public:
  Impl(std::shared_ptr<DecoderEngine> engine, const GeneratorOptions& options, Scheduler* scheduler,
       GenerationObserver* observer)
      : engine_(std::move(engine)), options_(options), scheduler_(scheduler), observer_(observer) {}

  void Open() {
    scheduler_->Attach(this);
    listener_ = engine_->pool().AddListener([this] {
      if (wants_memory_.load()) Wake();
    });
  }

  void Close() {
    {
      MutexLock lock(&mutex_);
      open_ = false;
    }
    engine_->pool().RemoveListener(listener_);
    scheduler_->Detach(this);
    Shutdown();
  }

  absl::StatusOr<std::shared_ptr<GenerationHandle>> Submit(GenerationRequest request,
                                                           std::shared_ptr<GenerationSink> sink);

  absl::Status CheckRoom(size_t texts) {
    MutexLock lock(&mutex_);
    return CheckRoomLocked(texts);
  }
  Snapshot snapshot() const { return {.waiting = waiting_count_, .running = running_count_}; }
  const DecoderEngine& engine() const { return *engine_; }

  /// There may be something to do.
  void Wake() {
    MutexLock lock(&mutex_);
    if (open_) scheduler_->Notify(this);
  }

  Outcome Step() override;
  void Shutdown() override;

 private:
  class Handle;
  using Texts = std::vector<std::shared_ptr<Text>>;

  absl::Status Check(const GenerationRequest& request) const;
  absl::Status CheckRoomLocked(size_t texts) const;
  void TakeIncoming();
  /// Not OK: the text shall not go on.
  absl::Status WhyEnd(const Text& text, absl::Time now) const;
  void EndUnwanted(absl::Time now);
  absl::Status Start(Text& text, absl::Time now);
  void Admit(absl::Time now);
  void MakeParts();
  void RunParts(Outcome* outcome);
  void OnLogits(Text& text, const StepPart& part, int32_t row, std::span<const float> logits);
  /// Hands on what the step gave; true if the text goes on.
  bool Deliver(const std::shared_ptr<Text>& text, const absl::Status& status);
  bool HandOn(Text& text, const TextToken& token);
  void Finish(const std::shared_ptr<Text>& text, FinishReason reason);
  void End(const std::shared_ptr<Text>& text, absl::StatusOr<GenerationResult> result);
  void Count();

  const std::shared_ptr<DecoderEngine> engine_;
  const GeneratorOptions options_;
  Scheduler* const scheduler_;
  GenerationObserver* const observer_;
  int64_t listener_ = 0;

  Mutex mutex_;
  bool open_ = true;
  uint64_t arrivals_ = 0;
  Texts incoming_;  // Accepted; the executor has not yet seen them.

  std::atomic<int32_t> waiting_count_ = 0, running_count_ = 0;
  std::atomic<bool> wants_memory_ = false;  // A text waits for room in the pool.

  // The executor's.
  Texts waiting_;   // In the order in which they will start.
  Texts running_;   // In the order in which they started.
  Texts stepping_;  // Those of running_ in the step, as parts_.
  std::vector<StepPart> parts_;
};

class Generator::Impl::Handle final : public GenerationHandle {
 public:
  Handle(std::weak_ptr<Impl> impl, std::shared_ptr<Text> text)
      : impl_(std::move(impl)), text_(std::move(text)) {}
  void Resume() override {
    text_->paused.store(false);
    Wake();
  }
  void Cancel() override {
    text_->cancelled.store(true);
    Wake();
  }

 private:
  void Wake() {
    if (const std::shared_ptr<Impl> impl = impl_.lock()) impl->Wake();
  }
  const std::weak_ptr<Impl> impl_;
  const std::shared_ptr<Text> text_;
};

// ---- Admission ----

absl::Status Generator::Impl::Check(const GenerationRequest& request) const {
  THRESHER_RETURN_IF_ERROR(engine_->ValidatePrompt(request.prompt));
  THRESHER_RETURN_IF_ERROR(CheckSampling(request.sampling));
  if (request.max_tokens < 0) {
    return InvalidArgument("max_tokens is {}, less than none", request.max_tokens);
  }
  if (request.top_logprobs < 0) {
    return InvalidArgument("top_logprobs is {}, less than none", request.top_logprobs);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<GenerationHandle>> Generator::Impl::Submit(
    GenerationRequest request, std::shared_ptr<GenerationSink> sink) {
  THRESHER_RETURN_IF_ERROR(Check(request));
  auto text = std::make_shared<Text>();
  const Policy* const policy = request.policy.get();
  const auto prompt = static_cast<int32_t>(request.prompt.size());
  text->most_tokens = engine_->MaxTokens(policy);
  // The last token generated is never run.
  const int64_t tokens =
      std::min<int64_t>(text->most_tokens, int64_t{prompt} + std::max(0, request.max_tokens - 1));
  text->cache_bytes = engine_->CacheBytes(policy, prompt, static_cast<int32_t>(tokens));
  if (!engine_->pool().Fits(text->cache_bytes)) {
    return ResourceExhausted(
        "{} tokens of prompt and {} to generate take {} bytes of KV cache; this server has {}: "
        "ask for fewer tokens",
        prompt, request.max_tokens, text->cache_bytes, engine_->pool().limit());
  }
  text->arrival = options_.clock->Now();
  if (text->arrival >= request.deadline) return DeadlineExceeded("the deadline has passed");
  text->request = std::move(request);
  text->sink = std::move(sink);
  auto handle = std::make_shared<Handle>(weak_from_this(), text);

  MutexLock lock(&mutex_);
  THRESHER_RETURN_IF_ERROR(CheckRoomLocked(1));
  THRESHER_RETURN_IF_ERROR(scheduler_->Enter());
  text->number = arrivals_++;
  incoming_.push_back(std::move(text));
  ++waiting_count_;
  scheduler_->Notify(this);
  return handle;
}

absl::Status Generator::Impl::CheckRoomLocked(size_t texts) const {
  if (!open_) return Unavailable("the model is being unloaded");
  const auto most = static_cast<size_t>(options_.max_waiting);
  if (texts > most) {
    return ResourceExhausted("{} texts at once are more than may ever wait, {}: send fewer", texts,
                             most);
  }
  const auto waiting = static_cast<size_t>(waiting_count_.load());
  if (waiting + texts > most) {
    return WithRetryHint(
        ResourceExhausted("the queue is full: {} of {} places are taken and {} are wanted", waiting,
                          most, texts),
        kRetryAfter);
  }
  return absl::OkStatus();
}

void Generator::Impl::TakeIncoming() {
  Texts incoming;
  {
    MutexLock lock(&mutex_);
    incoming.swap(incoming_);
  }
  for (std::shared_ptr<Text>& text : incoming) {
    const auto place = std::ranges::upper_bound(waiting_, text, Before);
    waiting_.insert(place, std::move(text));
  }
}

absl::Status Generator::Impl::WhyEnd(const Text& text, absl::Time now) const {
  // In this order: gRPC cancels a call at its deadline.
  if (text.request.deadline <= now) {
    return DeadlineExceeded("the deadline passed after {} tokens", text.generated);
  }
  if (text.cancelled) return Cancelled("the caller cancelled the text");
  if (text.paused && text.paused_until <= now) {
    return Cancelled("the reader took nothing for {}, so the text was ended",
                     absl::FormatDuration(options_.max_pause));
  }
  return absl::OkStatus();
}

void Generator::Impl::EndUnwanted(absl::Time now) {
  for (Texts* texts : {&waiting_, &running_}) {
    std::vector<std::pair<std::shared_ptr<Text>, absl::Status>> ended;
    std::erase_if(*texts, [&](const std::shared_ptr<Text>& text) {
      absl::Status status = WhyEnd(*text, now);
      if (status.ok()) return false;
      ended.emplace_back(text, std::move(status));
      return true;
    });
    for (auto& [text, status] : ended) End(text, std::move(status));
  }
}

absl::Status Generator::Impl::Start(Text& text, absl::Time now) {
  const GenerationRequest& request = text.request;
  // A prompt that is scored has to be run.
  const std::span<const int32_t> prefix =
      request.prompt_logprobs ? std::span<const int32_t>() : std::span(request.prompt);
  try {
    THRESHER_ASSIGN_OR_RETURN(
        text.cached, engine_->Start(request.policy, request.detail, text.cache_bytes, prefix));
    text.sampler.emplace(request.sampling, request.prompt);
  } catch (const std::exception& error) {
    return Internal("the text could not be started: {}", error.what());
  }
  text.reused = text.prompt_done = DecoderEngine::Tokens(*text.cached);
  text.start = now;
  return absl::OkStatus();
}

void Generator::Impl::Admit(absl::Time now) {
  // A paused text takes memory, and no place among those that run.
  auto running = std::ranges::count_if(running_, [](const auto& text) { return !text->paused; });
  while (!waiting_.empty() && running < options_.max_running) {
    const std::shared_ptr<Text> text = waiting_.front();
    wants_memory_ = true;  // First, so that room which comes right now is not missed.
    const absl::Status status = Start(*text, now);
    if (absl::IsResourceExhausted(status)) return;  // Until there is room.
    waiting_.erase(waiting_.begin());
    if (!status.ok()) {
      End(text, status);
      continue;
    }
    running_.push_back(text);
    ++running;
  }
  wants_memory_ = false;
}

// ---- Steps ----

void Generator::Impl::MakeParts() {
  parts_.clear();
  stepping_.clear();
  Texts reading;
  for (const std::shared_ptr<Text>& text : running_) {
    if (!text->paused && text->reads_prompt()) reading.push_back(text);
  }
  std::ranges::sort(reading, Before);
  // One token is left for a prompt, so that neither can keep the other from going on.
  const int64_t most = std::max<int64_t>(1, options_.max_step_tokens - (reading.empty() ? 0 : 1));
  for (const std::shared_ptr<Text>& text : running_) {
    if (static_cast<int64_t>(parts_.size()) == most) break;
    if (text->paused || text->reads_prompt()) continue;
    parts_.push_back({.text = text->cached.get(),
                      .ids = std::span(&text->next, 1),
                      .logits = StepPart::Logits::kLast});
    stepping_.push_back(text);
  }
  if (static_cast<int64_t>(parts_.size()) == most) {
    // Perhaps not all had a place: who had one goes to the end of the line.
    // (Not std::ranges::stable_partition: clang 14 does not compile libstdc++'s subrange.)
    std::stable_partition(running_.begin(), running_.end(), [this](const auto& text) {
      return std::ranges::count(stepping_, text) == 0;
    });
  }
  int64_t room =
      std::max<int64_t>(1, options_.max_step_tokens - static_cast<int64_t>(parts_.size()));
  if (!parts_.empty()) room = std::min<int64_t>(room, options_.prefill_chunk);
  for (const std::shared_ptr<Text>& text : reading) {
    if (room <= 0) break;
    const GenerationRequest& request = text->request;
    const auto left = static_cast<int64_t>(request.prompt.size()) - text->prompt_done;
    const int64_t count = std::min(room, left);
    const bool ends = count == left;
    StepPart part = {
        .text = text->cached.get(),
        .ids = std::span(request.prompt)
                   .subspan(static_cast<size_t>(text->prompt_done), static_cast<size_t>(count)),
        .prompt_tokens = static_cast<int32_t>(request.prompt.size())};
    if (request.prompt_logprobs) {
      part.logits = StepPart::Logits::kAll;
    } else if (ends && request.max_tokens > 0) {
      part.logits = StepPart::Logits::kLast;
    }
    parts_.push_back(part);
    stepping_.push_back(text);
    room -= count;
  }
}

void Generator::Impl::OnLogits(Text& text, const StepPart& part, int32_t row,
                               std::span<const float> logits) {
  if (!text.fault.ok()) return;
  const GenerationRequest& request = text.request;
  const auto next = static_cast<size_t>(text.prompt_done + row + 1);  // Of the prompt.
  if (part.prompt() && next < request.prompt.size()) {
    text.tokens.push_back(MakeToken(logits, request.prompt[next], true, request.top_logprobs));
    text.tokens.back().prompt = true;
    return;
  }
  if (request.max_tokens == 0) return;
  const absl::StatusOr<int32_t> id = text.sampler->Next(logits);
  if (!id.ok()) {
    text.fault = id.status();
    return;
  }
  text.drawn = *id;
  text.tokens.push_back(MakeToken(logits, *id, request.logprobs, request.top_logprobs));
}

void Generator::Impl::RunParts(Outcome* outcome) {
  for (size_t i = 0; i < parts_.size(); ++i) {
    Text& text = *stepping_[i];
    text.tokens.clear();
    text.drawn.reset();
    if (text.request.prompt_logprobs && parts_[i].prompt() && text.prompt_done == 0) {
      text.tokens.push_back({.id = text.request.prompt.front(), .prompt = true});
    }
  }
  const absl::Time start = options_.clock->Now();
  absl::Status status;
  try {
    status = engine_->Step(parts_, [&](size_t part, int32_t row, std::span<const float> logits) {
      OnLogits(*stepping_[part], parts_[part], row, logits);
    });
  } catch (const std::exception& error) {
    status = Internal("the engine threw: {}", error.what());
  } catch (...) {
    status = Internal("the engine threw an unknown exception");
  }
  const absl::Duration compute = options_.clock->Now() - start;
  int32_t decoded = 0;
  int32_t read = 0;
  double cost = 0.0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    Text& text = *stepping_[i];
    const auto tokens = static_cast<int32_t>(parts_[i].ids.size());
    text.compute += compute;
    if (parts_[i].prompt()) {
      text.prompt_done += tokens;
      read += tokens;
      cost += tokens;
    } else {
      ++decoded;
      const Policy* const policy = text.request.policy.get();
      cost += policy != nullptr ? policy->CostShare(DecoderEngine::Tokens(*text.cached)) : 1.0;
    }
  }
  outcome->cost = std::max<int64_t>(kLeastStepCost, std::llround(cost));
  if (observer_ != nullptr) {
    observer_->OnStep(static_cast<int32_t>(parts_.size()), decoded, read, compute);
  }
  for (const std::shared_ptr<Text>& text : stepping_) {
    if (!Deliver(text, status)) std::erase(running_, text);
  }
  parts_.clear();
  stepping_.clear();
}

bool Generator::Impl::HandOn(Text& text, const TextToken& token) {
  // Taken back unless the sink asks for it: so a Resume that comes before it has said so counts.
  text.paused_until = options_.clock->Now() + options_.max_pause;
  text.paused = true;
  const GenerationSink::Next next = text.sink->OnToken(token);
  if (next != GenerationSink::Next::kPause) text.paused = false;
  return next != GenerationSink::Next::kStop;
}

bool Generator::Impl::Deliver(const std::shared_ptr<Text>& text, const absl::Status& status) {
  const absl::Status& fault = status.ok() ? text->fault : status;
  if (!fault.ok()) {
    End(text, fault);
    return false;
  }
  const GenerationRequest& request = text->request;
  if (text->drawn) ++text->generated;
  const bool ended = text->drawn && std::ranges::count(request.end_ids, *text->drawn) > 0;
  if (ended) text->tokens.pop_back();
  for (const TextToken& token : text->tokens) {
    if (HandOn(*text, token)) continue;
    Finish(text, FinishReason::kStop);
    return false;
  }
  if (ended) {
    Finish(text, FinishReason::kStop);
    return false;
  }
  const int32_t tokens = DecoderEngine::Tokens(*text->cached);
  if (!text->reads_prompt() &&
      (text->generated >= request.max_tokens || tokens >= text->most_tokens)) {
    Finish(text, FinishReason::kLength);
    return false;
  }
  if (text->drawn) text->next = *text->drawn;
  return true;
}

void Generator::Impl::Finish(const std::shared_ptr<Text>& text, FinishReason reason) {
  End(text, GenerationResult{
                .reason = reason,
                .prompt_tokens = static_cast<int32_t>(text->request.prompt.size()),
                .generated_tokens = text->generated,
                .cached_prompt_tokens = text->reused,
                .queue = text->start - text->arrival,
                .compute = text->compute,
                .report = DecoderEngine::Report(*text->cached),
            });
}

void Generator::Impl::End(const std::shared_ptr<Text>& text,
                          absl::StatusOr<GenerationResult> result) {
  text->cached = nullptr;  // Its memory is free before anybody hears of it.
  Count();
  const std::shared_ptr<GenerationSink> sink = std::move(text->sink);
  sink->OnEnd(std::move(result));
  scheduler_->Leave();
}

void Generator::Impl::Count() {
  int32_t running = 0;
  for (const auto& text : running_) running += text->cached != nullptr ? 1 : 0;
  running_count_ = running;
  MutexLock lock(&mutex_);
  int32_t waiting = 0;
  for (const auto& text : waiting_) waiting += text->sink != nullptr ? 1 : 0;
  waiting_count_ = waiting + static_cast<int32_t>(incoming_.size());
}

StepSource::Outcome Generator::Impl::Step() {
  const absl::Time now = options_.clock->Now();
  TakeIncoming();
  EndUnwanted(now);
  Admit(now);
  Count();
  MakeParts();
  Outcome outcome;
  if (!parts_.empty()) RunParts(&outcome);
  Count();
  for (const Texts* texts : {&waiting_, &running_}) {
    for (const std::shared_ptr<Text>& text : *texts) {
      outcome.look_again = std::min(outcome.look_again, text->request.deadline);
      if (text->paused) outcome.look_again = std::min(outcome.look_again, text->paused_until);
    }
  }
  outcome.more = outcome.cost > 0 &&
                 std::ranges::any_of(running_, [](const auto& text) { return !text->paused; });
  // A text that ended, or paused, made room.
  outcome.more |= outcome.cost > 0 && !waiting_.empty();
  return outcome;
}

void Generator::Impl::Shutdown() {
  TakeIncoming();
  for (Texts* texts : {&running_, &waiting_}) {
    while (!texts->empty()) {
      const std::shared_ptr<Text> text = std::move(texts->back());
      texts->pop_back();
      End(text, Unavailable("the server shut down"));
    }
  }
}

// ---- The interface ----

Generator::Generator(std::shared_ptr<DecoderEngine> engine, const GeneratorOptions& options,
                     Scheduler* scheduler, GenerationObserver* observer)
    : impl_(std::make_shared<Impl>(std::move(engine), options, scheduler, observer)) {
  impl_->Open();
}
Generator::~Generator() { impl_->Close(); }

absl::StatusOr<std::shared_ptr<GenerationHandle>> Generator::Submit(
    GenerationRequest request, std::shared_ptr<GenerationSink> sink) {
  return impl_->Submit(std::move(request), std::move(sink));
}
absl::Status Generator::CheckRoom(size_t texts) const { return impl_->CheckRoom(texts); }
Generator::Snapshot Generator::snapshot() const { return impl_->snapshot(); }
const DecoderEngine& Generator::engine() const { return impl_->engine(); }

}  // namespace thresher
