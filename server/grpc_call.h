// A unary call on gRPC's callback interface whose answer comes later, from another thread.
#ifndef THRESHER_SERVER_GRPC_CALL_H_
#define THRESHER_SERVER_GRPC_CALL_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "backend/scheduler/clock.h"
#include "backend/tensor/mutex.h"
#include "server/grpc_message.h"
#include "server/grpc_status.h"

namespace thresher {

/// The call's deadline on Clock::Real(); infinite if the caller set none.
inline absl::Time Deadline(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return Clock::Real()->Now() + (absl::FromChrono(deadline) - absl::Now());
}

/// Work's own way of ending when its caller has gone. Thread-safe.
class WhenCancelled {
 public:
  /// Run when the caller goes away, at once if it has gone.
  void Set(std::function<void()> cancel) {
    {
      MutexLock lock(&mutex_);
      if (!cancelled_) {
        cancel_ = std::move(cancel);
        return;
      }
    }
    cancel();
  }
  void Run() {
    std::function<void()> cancel;
    {
      MutexLock lock(&mutex_);
      cancelled_ = true;
      cancel = std::move(cancel_);
    }
    if (cancel) cancel();
  }

 private:
  Mutex mutex_;
  bool cancelled_ = false;
  std::function<void()> cancel_;
};

/// Holds the messages of one call and the flag that its cancellation sets. gRPC owns a reactor from
/// the handler's return to OnDone, where it deletes itself; Finish must be called exactly once and
/// may be called from any thread, even before the handler has returned.
template <typename Request, typename Response>
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(grpc::CallbackServerContext* context, grpc::ByteBuffer* out)
      : context_(context),
        arrival_(Clock::Real()->Now()),
        deadline_(Deadline(*context)),
        out_(out) {}

  /// Reads request(); INVALID_ARGUMENT if it can't be.
  absl::Status Parse(const grpc::ByteBuffer& in) { return ParseMessage(in, &request_); }

  const Request& request() const { return request_; }
  Request* mutable_request() { return &request_; }
  Response* response() { return &response_; }
  absl::Time arrival() const { return arrival_; }
  absl::Time deadline() const { return deadline_; }
  const std::shared_ptr<std::atomic<bool>>& cancelled() const { return cancelled_; }

  /// Answers with response(), or with the error. The object may be gone when this returns.
  void Finish(const absl::Status& status) {
    AddRetryHint(status, context_);
    grpc::Status wire = ToGrpc(status);
    if (wire.ok()) wire = SerializeMessage(response_, out_);
    ServerUnaryReactor::Finish(wire);
  }

  /// What happens when the caller goes away, to be set once the work has begun. May outlive the
  /// call, which the work may have answered by then.
  const std::shared_ptr<WhenCancelled>& when_cancelled() const { return when_cancelled_; }

  void OnCancel() override {
    cancelled_->store(true);
    when_cancelled_->Run();
  }
  void OnDone() override { delete this; }

 private:
  grpc::CallbackServerContext* const context_;
  const absl::Time arrival_;
  const absl::Time deadline_;
  grpc::ByteBuffer* const out_;
  Request request_;
  Response response_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  const std::shared_ptr<WhenCancelled> when_cancelled_ = std::make_shared<WhenCancelled>();
};

}  // namespace thresher

#endif  // THRESHER_SERVER_GRPC_CALL_H_
