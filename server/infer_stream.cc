#include "server/infer_stream.h"

#include <atomic>
#include <deque>
#include <memory>
#include <set>
#include <utility>

#include "backend/tensor/status.h"
#include "inference/open_inference_grpc.grpc.pb.h"
#include "server/grpc_call.h"
#include "server/grpc_message.h"
#include "server/grpc_status.h"

namespace thresher {

/// Lives until gRPC has called OnDone and no request is in flight. gRPC runs no reaction inside
/// Start* or Finish, and a generator calls nothing with a lock held, so both may be called with the
/// mutex held.
class InferStreams::Stream final : public Reactor, public std::enable_shared_from_this<Stream> {
 public:
  Stream(InferStreams* streams, absl::Time deadline) : streams_(streams), deadline_(deadline) {}

  void Open() {
    self_ = shared_from_this();
    MutexLock lock(&mutex_);
    ReadMore();
  }

  void End() {
    MutexLock lock(&mutex_);
    ending_ = true;
    FinishIfDone();
  }

  void OnReadDone(bool ok) override {
    grpc::ByteBuffer bytes;
    {
      MutexLock lock(&mutex_);
      reading_ = false;
      if (!ok) {
        closed_ = true;
        return FinishIfDone();
      }
      bytes.Swap(&inbox_);
      ++in_flight_;
      ReadMore();
    }
    Infer(bytes);
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(&mutex_);
    writing_ = false;
    const Answer sent = std::move(outbox_.front());
    outbox_.pop_front();
    Sent(sent);
    if (!ok) Break();
    WriteMore();
    ReadMore();
    FinishIfDone();
  }

  void OnCancel() override {
    MutexLock lock(&mutex_);
    Break();
    FinishIfDone();
  }

  void OnDone() override {
    {
      MutexLock lock(&streams_->mutex_);
      streams_->streams_.erase(this);
    }
    const auto last = std::move(self_);
  }

 private:
  /// One request, from its arrival to its last answer. Guarded by the stream's mutex.
  struct Request final : public InferReceiver, public std::enable_shared_from_this<Request> {
    explicit Request(std::shared_ptr<Stream> its_stream) : stream(std::move(its_stream)) {}
    bool OnResponse(inference::ModelInferResponse response) override {
      return stream->Queue(shared_from_this(), std::move(response), /*last=*/false);
    }
    void OnEnd(absl::StatusOr<inference::ModelInferResponse> response) override {
      stream->Queue(shared_from_this(), std::move(response), /*last=*/true);
    }

    const std::shared_ptr<Stream> stream;
    inference::ModelInferRequest message;
    OpenInference::Handle handle;  // Of a text, while it goes on.
    int unsent = 0;
    bool paused = false;
    bool ended = false;
  };

  struct Answer {
    grpc::ByteBuffer bytes;
    std::shared_ptr<Request> request;
    bool last = false;
  };

  void Infer(const grpc::ByteBuffer& bytes) {
    const auto request = std::make_shared<Request>(shared_from_this());
    OpenInference::Context context;
    context.arrival = Clock::Real()->Now();
    context.deadline = deadline_;
    context.cancelled = cancelled_;
    if (absl::Status status = ParseMessage(bytes, &request->message); !status.ok()) {
      return request->OnEnd(status);
    }
    auto handle = streams_->inference_->Stream(&request->message, context, request);
    if (handle == nullptr) return;
    MutexLock lock(&mutex_);
    if (request->ended) return;
    request->handle = std::move(handle);
    texts_.insert(request);
    // What happened while there was no handle.
    if (broken_) request->handle->Cancel();
    if (!request->paused) request->handle->Resume();
  }

  /// False: the request's answers wait to be sent, as many as may.
  bool Queue(const std::shared_ptr<Request>& request,
             absl::StatusOr<inference::ModelInferResponse> result, bool last) {
    inference::ModelStreamInferResponse answer;
    if (result.ok()) {
      *answer.mutable_infer_response() = *std::move(result);
    } else {
      answer.set_error_message(fmt::format("{}: {}",
                                           absl::StatusCodeToString(result.status().code()),
                                           WireMessage(result.status())));
      answer.mutable_infer_response()->set_id(request->message.id());
      answer.mutable_infer_response()->set_model_name(request->message.model_name());
    }
    Answer queued = {{}, request, last};
    const grpc::Status written = SerializeMessage(answer, &queued.bytes);
    MutexLock lock(&mutex_);
    if (last) {
      request->ended = true;
      request->handle = nullptr;
      texts_.erase(request);
    }
    ++request->unsent;
    if (broken_ || !written.ok()) {
      Sent(queued);
    } else {
      outbox_.push_back(std::move(queued));
      request->paused = request->unsent >= kMaxUnsent;
    }
    WriteMore();
    ReadMore();
    FinishIfDone();
    return !request->paused;
  }

  // All below with the mutex held.

  void ReadMore() {
    if (reading_ || closed_ || ending_ || broken_ || in_flight_ >= kMaxInFlight) return;
    reading_ = true;
    StartRead(&inbox_);
  }

  void WriteMore() {
    if (writing_ || outbox_.empty()) return;
    writing_ = true;
    StartWrite(&outbox_.front().bytes);
  }

  /// The answer has gone, or was dropped.
  void Sent(const Answer& answer) {
    Request& request = *answer.request;
    --request.unsent;
    if (answer.last) --in_flight_;
    if (!request.paused || request.unsent > 0) return;
    request.paused = false;
    if (request.handle != nullptr) request.handle->Resume();
  }

  /// The caller is gone: drops what waits to be computed or to be sent.
  void Break() {
    if (broken_) return;
    broken_ = true;
    cancelled_->store(true);
    for (const auto& request : texts_) request->handle->Cancel();
    const size_t keep = writing_ ? 1 : 0;  // gRPC still reads the one that is being written.
    while (outbox_.size() > keep) {
      const Answer dropped = std::move(outbox_.back());
      outbox_.pop_back();
      Sent(dropped);
    }
  }

  void FinishIfDone() {
    if (finished_ || in_flight_ > 0 || !(closed_ || ending_ || broken_)) return;
    finished_ = true;
    if (broken_) {
      Finish(ToGrpc(Cancelled("the caller cancelled the stream")));
    } else if (closed_) {
      Finish(grpc::Status::OK);
    } else {
      Finish(ToGrpc(Unavailable("the server is shutting down")));
    }
  }

  InferStreams* const streams_;
  const absl::Time deadline_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<Stream> self_;  // Until OnDone.

  Mutex mutex_;
  bool reading_ = false;
  bool writing_ = false;
  bool closed_ = false;  // The caller sends no more.
  bool ending_ = false;  // We read no more.
  bool broken_ = false;  // The caller is gone.
  bool finished_ = false;
  int in_flight_ = 0;  // Requests that were read, whose last answer is not yet sent or dropped.
  grpc::ByteBuffer inbox_;
  std::deque<Answer> outbox_;                 // The first is being written.
  std::set<std::shared_ptr<Request>> texts_;  // Those with a handle.
};

InferStreams::Reactor* InferStreams::Open(grpc::CallbackServerContext* context) {
  const auto stream = std::make_shared<Stream>(this, Deadline(*context));
  stream->Open();
  MutexLock lock(&mutex_);
  streams_.insert(stream.get());
  if (ending_) stream->End();
  return stream.get();
}

void InferStreams::EndAll() {
  MutexLock lock(&mutex_);
  ending_ = true;
  for (Stream* stream : streams_) stream->End();
}

}  // namespace thresher
