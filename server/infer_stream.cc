#include "server/infer_stream.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <utility>

#include "backend/tensor/status.h"
#include "inference/open_inference_grpc.grpc.pb.h"
#include "server/grpc_call.h"
#include "server/grpc_message.h"
#include "server/grpc_status.h"

namespace thresher {

/// Lives until gRPC has called OnDone and no request is in flight. gRPC runs no reaction inside
/// Start* or Finish, so they may be called with the mutex held.
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
    outbox_.pop_front();
    --in_flight_;
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
  void Infer(const grpc::ByteBuffer& bytes) {
    auto request = std::make_shared<inference::ModelInferRequest>();
    OpenInference::Context context;
    context.arrival = Clock::Real()->Now();
    context.deadline = deadline_;
    context.cancelled = cancelled_;
    if (absl::Status status = ParseMessage(bytes, request.get()); !status.ok()) {
      return Answer(*request, status);
    }
    streams_->inference_->Infer(
        *request, context,
        [self = shared_from_this(), request](absl::StatusOr<inference::ModelInferResponse> result) {
          self->Answer(*request, std::move(result));
        });
  }

  void Answer(const inference::ModelInferRequest& request,
              absl::StatusOr<inference::ModelInferResponse> result) {
    inference::ModelStreamInferResponse answer;
    if (result.ok()) {
      *answer.mutable_infer_response() = *std::move(result);
    } else {
      answer.set_error_message(fmt::format("{}: {}",
                                           absl::StatusCodeToString(result.status().code()),
                                           WireMessage(result.status())));
      answer.mutable_infer_response()->set_id(request.id());
      answer.mutable_infer_response()->set_model_name(request.model_name());
    }
    grpc::ByteBuffer bytes;
    const grpc::Status written = SerializeMessage(answer, &bytes);
    MutexLock lock(&mutex_);
    if (broken_ || !written.ok()) {
      --in_flight_;
    } else {
      outbox_.push_back(std::move(bytes));
    }
    WriteMore();
    ReadMore();
    FinishIfDone();
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
    StartWrite(&outbox_.front());
  }

  /// The caller is gone: drops what waits to be computed or to be sent.
  void Break() {
    if (broken_) return;
    broken_ = true;
    cancelled_->store(true);
    const size_t keep = writing_ ? 1 : 0;  // gRPC still reads the one that is being written.
    in_flight_ -= static_cast<int>(outbox_.size() - std::min(keep, outbox_.size()));
    outbox_.resize(std::min(keep, outbox_.size()));
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
  int in_flight_ = 0;  // Read, but not yet sent or dropped.
  grpc::ByteBuffer inbox_;
  std::deque<grpc::ByteBuffer> outbox_;  // The first is being written.
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
