#include "server/generate_stream.h"

#include <memory>
#include <optional>
#include <utility>

#include "backend/tensor/mutex.h"
#include "server/grpc_call.h"
#include "server/grpc_message.h"
#include "server/grpc_status.h"
#include "thresher/v1/thresher.grpc.pb.h"

namespace thresher {
namespace {

/// Lives until gRPC has called OnDone and the text has ended. gRPC runs no reaction inside Start*
/// or Finish, and the generator calls nothing with a lock held, so both may be called with the
/// mutex held.
class Stream final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                     public TextReceiver,
                     public std::enable_shared_from_this<Stream> {
 public:
  void Open(TextGeneration* generation, Inference* inference, grpc::CallbackServerContext* context,
            const grpc::ByteBuffer& bytes) {
    self_ = shared_from_this();
    const TextGeneration::Context times = {Clock::Real()->Now(), Deadline(*context)};
    v1::GenerateRequest request;
    if (absl::Status status = ParseMessage(bytes, &request); !status.ok()) {
      return Refuse(inference->Refuse(Method::kGenerate, "", 1, status));
    }
    auto handle = generation->Generate(request, times, shared_from_this());
    if (!handle.ok()) {
      AddRetryHint(handle.status(), context);
      return Refuse(handle.status());
    }
    MutexLock lock(&mutex_);
    if (ended_) return;
    handle_ = *std::move(handle);
    // What happened while there was no handle.
    if (broken_) handle_->Cancel();
    if (!paused_) handle_->Resume();
  }

  bool OnToken(v1::GeneratedToken token) override {
    MutexLock lock(&mutex_);
    if (broken_) return true;
    *unsent_.add_tokens() = std::move(token);
    Write();
    paused_ = unsent_.tokens_size() >= kMaxUnsent;
    return !paused_;
  }

  void OnEnd(absl::StatusOr<v1::GenerateEnd> end) override {
    MutexLock lock(&mutex_);
    ended_ = true;
    handle_ = nullptr;
    if (end.ok()) {
      end_ = *std::move(end);
    } else {
      status_ = ToGrpc(end.status());
    }
    Write();
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) Break();
    Write();
    if (!paused_ || unsent_.tokens_size() > 0) return;
    paused_ = false;
    if (handle_ != nullptr) handle_->Resume();
  }

  void OnCancel() override {
    MutexLock lock(&mutex_);
    Break();
    Write();
  }

  void OnDone() override { const auto last = std::move(self_); }

 private:
  void Refuse(const absl::Status& status) {
    MutexLock lock(&mutex_);
    ended_ = true;
    status_ = ToGrpc(status);
    Write();
  }

  // With the mutex held:

  /// Sends what waits; once everything has gone, ends the call.
  void Write() {
    if (writing_ || finished_) return;
    if (unsent_.tokens_size() > 0) return Send();
    if (!ended_) return;
    if (end_ && !broken_) {
      *unsent_.mutable_end() = *std::move(end_);
      end_.reset();
      return Send();
    }
    finished_ = true;
    Finish(broken_ && status_.ok() ? ToGrpc(absl::CancelledError("the caller cancelled the call"))
                                   : status_);
  }

  void Send() {
    outbox_.Clear();
    const grpc::Status written = SerializeMessage(unsent_, &outbox_);
    unsent_.Clear();
    if (!written.ok()) {
      status_ = written;
      return Break();
    }
    writing_ = true;
    StartWrite(&outbox_);
  }

  /// The reader is gone.
  void Break() {
    broken_ = true;
    unsent_.Clear();
    if (handle_ != nullptr) handle_->Cancel();
  }

  std::shared_ptr<Stream> self_;  // Until OnDone.

  Mutex mutex_;
  TextGeneration::Handle handle_;  // While the text goes on.
  v1::GenerateResponse unsent_;
  grpc::ByteBuffer outbox_;  // While writing_.
  std::optional<v1::GenerateEnd> end_;
  grpc::Status status_;
  bool writing_ = false;
  bool paused_ = false;
  bool ended_ = false;   // The text has.
  bool broken_ = false;  // The caller is gone.
  bool finished_ = false;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StreamText(TextGeneration* generation,
                                                       Inference* inference,
                                                       grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer& request) {
  auto stream = std::make_shared<Stream>();
  Stream* const reactor = stream.get();
  reactor->Open(generation, inference, context, request);
  return reactor;
}

}  // namespace thresher
