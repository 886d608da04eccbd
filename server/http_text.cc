#include "server/http_text.h"

#include <utility>

#include "backend/tensor/mutex.h"

namespace thresher {

/// Between the generator's thread and the client's.
class HttpText::Queue final : public TextReceiver {
 public:
  bool OnToken(v1::GeneratedToken token) override {
    MutexLock lock(&mutex_);
    *tokens_.add_tokens() = std::move(token);
    paused_ = tokens_.tokens_size() >= kMaxUnsent;
    changed_.Signal();
    return !paused_;
  }

  void OnEnd(absl::StatusOr<v1::GenerateEnd> end) override {
    MutexLock lock(&mutex_);
    end_ = std::move(end);
    handle_ = nullptr;
    changed_.Signal();
  }

  void SetHandle(TextGeneration::Handle handle) {
    MutexLock lock(&mutex_);
    if (end_) return;
    handle_ = std::move(handle);
    if (!paused_) handle_->Resume();  // It may have paused while there was no handle.
  }

  void Cancel() {
    MutexLock lock(&mutex_);
    if (handle_ != nullptr) handle_->Cancel();
  }

  /// What has come, all tokens in one message; nothing if none came in the time.
  std::optional<absl::StatusOr<v1::GenerateResponse>> Take(absl::Duration time) {
    MutexLock lock(&mutex_);
    if (tokens_.tokens_size() == 0 && !end_) changed_.WaitWithTimeout(&mutex_, time);
    if (tokens_.tokens_size() > 0) {
      v1::GenerateResponse taken = std::exchange(tokens_, {});
      if (paused_ && handle_ != nullptr) handle_->Resume();
      paused_ = false;
      return taken;
    }
    if (!end_) return std::nullopt;
    if (!end_->ok()) return end_->status();
    v1::GenerateResponse last;
    *last.mutable_end() = **std::move(end_);
    return last;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  TextGeneration::Handle handle_;  // While the text goes on.
  v1::GenerateResponse tokens_;
  std::optional<absl::StatusOr<v1::GenerateEnd>> end_;
  bool paused_ = false;
};

absl::StatusOr<std::shared_ptr<HttpText>> HttpText::Start(const Handlers& handlers, HttpCall call,
                                                          const v1::GenerateRequest& request) {
  auto queue = std::make_shared<Queue>();
  const TextGeneration::Context context = {
      .arrival = call.arrival(),
      .deadline = call.deadline(),
      .cancelled = [cancelled = call.cancelled()] { return cancelled->load(); }};
  auto handle = handlers.generation->Generate(request, context, queue);
  if (!handle.ok()) return handle.status();
  queue->SetHandle(*std::move(handle));
  return std::shared_ptr<HttpText>(new HttpText(std::move(call), std::move(queue)));
}

HttpText::~HttpText() { queue_->Cancel(); }

absl::StatusOr<v1::GenerateResponse> HttpText::Next() {
  for (;;) {
    auto next = queue_->Take(kClientCheck);
    if (call_.Gone()) queue_->Cancel();
    if (next) return *std::move(next);
  }
}

}  // namespace thresher
