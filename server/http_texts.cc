#include "server/http_texts.h"

#include <optional>
#include <utility>
#include <vector>

#include "backend/tensor/mutex.h"

namespace thresher {

/// Between the generators' threads and the client's.
class HttpTexts::Queue final : public std::enable_shared_from_this<Queue> {
 public:
  explicit Queue(size_t count) : texts_(count) {}

  /// Where text `i` goes.
  std::shared_ptr<TextReceiver> Receive(size_t i) {
    return std::make_shared<Receiver>(shared_from_this(), i);
  }

  void SetHandle(size_t i, TextGeneration::Handle handle) {
    MutexLock lock(&mutex_);
    Text& text = texts_[i];
    if (text.ended) return;
    text.handle = std::move(handle);
    if (!text.paused) text.handle->Resume();  // It may have paused while there was no handle.
  }

  void Cancel() {
    MutexLock lock(&mutex_);
    for (const Text& text : texts_) {
      if (text.handle != nullptr) text.handle->Cancel();
    }
  }

  /// What has come of one text, all tokens in one message; nothing if none came in the time.
  std::optional<absl::StatusOr<Piece>> Take(absl::Duration time) {
    MutexLock lock(&mutex_);
    if (auto piece = TakeNow()) return piece;
    changed_.WaitWithTimeout(&mutex_, time);
    return TakeNow();
  }

 private:
  struct Text {
    TextGeneration::Handle handle;  // While the text goes on.
    v1::GenerateResponse tokens;
    std::optional<absl::StatusOr<v1::GenerateEnd>> end;  // Until it is taken.
    bool paused = false;
    bool ended = false;
  };

  class Receiver final : public TextReceiver {
   public:
    Receiver(std::shared_ptr<Queue> queue, size_t i) : queue_(std::move(queue)), i_(i) {}
    bool OnToken(v1::GeneratedToken token) override { return queue_->Add(i_, std::move(token)); }
    void OnEnd(absl::StatusOr<v1::GenerateEnd> end) override { queue_->End(i_, std::move(end)); }

   private:
    const std::shared_ptr<Queue> queue_;
    const size_t i_;
  };

  bool Add(size_t i, v1::GeneratedToken token) {
    MutexLock lock(&mutex_);
    Text& text = texts_[i];
    *text.tokens.add_tokens() = std::move(token);
    text.paused = text.tokens.tokens_size() >= kMaxUnsent;
    changed_.Signal();
    return !text.paused;
  }

  void End(size_t i, absl::StatusOr<v1::GenerateEnd> end) {
    MutexLock lock(&mutex_);
    Text& text = texts_[i];
    text.ended = true;
    text.end = std::move(end);
    text.handle = nullptr;
    changed_.Signal();
  }

  /// With the mutex held.
  std::optional<absl::StatusOr<Piece>> TakeNow() {
    for (size_t looked = 0; looked < texts_.size(); ++looked) {
      const size_t i = std::exchange(turn_, (turn_ + 1) % texts_.size());
      Text& text = texts_[i];
      if (text.tokens.tokens_size() > 0) {
        Piece piece = {i, std::exchange(text.tokens, {})};
        if (text.paused && text.handle != nullptr) text.handle->Resume();
        text.paused = false;
        return piece;
      }
      if (!text.end) continue;
      const absl::StatusOr<v1::GenerateEnd> end = *std::exchange(text.end, std::nullopt);
      if (!end.ok()) return end.status();
      Piece last = {i, {}};
      *last.message.mutable_end() = *end;
      return last;
    }
    return std::nullopt;
  }

  Mutex mutex_;
  CondVar changed_;
  std::vector<Text> texts_;
  size_t turn_ = 0;  // The text to be looked at first.
};

absl::StatusOr<std::shared_ptr<HttpTexts>> HttpTexts::Start(
    const Handlers& handlers, HttpCall call, size_t count,
    const std::function<v1::GenerateRequest(size_t)>& request) {
  const TextGeneration::Context context = {
      .arrival = call.arrival(),
      .deadline = call.deadline(),
      .cancelled = [cancelled = call.cancelled()] { return cancelled->load(); }};
  auto queue = std::make_shared<Queue>(count);
  // Cancels those that have begun if a later one is refused.
  const std::shared_ptr<HttpTexts> texts(new HttpTexts(std::move(call), queue, count));
  for (size_t i = 0; i < count; ++i) {
    auto handle = handlers.generation->Generate(request(i), context, queue->Receive(i));
    if (!handle.ok()) return handle.status();
    queue->SetHandle(i, *std::move(handle));
  }
  return texts;
}

HttpTexts::~HttpTexts() { queue_->Cancel(); }

absl::StatusOr<HttpTexts::Piece> HttpTexts::Next() {
  for (;;) {
    auto next = queue_->Take(kClientCheck);
    if (call_.Gone()) queue_->Cancel();
    if (!next) continue;
    if (next->ok() && (*next)->message.has_end()) --left_;
    return *std::move(next);
  }
}

}  // namespace thresher
