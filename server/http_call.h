// A call for work over HTTP, on the thread that its connection has: when it came, by when it must
// be answered, the wait for its answer, and its end when the client hangs up.
#ifndef THRESHER_SERVER_HTTP_CALL_H_
#define THRESHER_SERVER_HTTP_CALL_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/tensor/mutex.h"
#include "server/http_server.h"
#include "server/inference.h"
#include "server/text_generation.h"

namespace thresher {

/// What HTTP calls are handed to: the handlers that gRPC's are.
struct Handlers {
  Inference* inference = nullptr;
  TextGeneration* generation = nullptr;
  ModelRepository* repository = nullptr;
};

/// How often a thread that waits looks whether its client is still there.
inline constexpr absl::Duration kClientCheck = absl::Milliseconds(100);

class HttpCall {
 public:
  /// Deadlines come as `Grpc-Timeout` (gRPC's own header: at most 8 digits and H, M, S, m, u or n)
  /// or as `Connect-Timeout-Ms`; of both the nearer counts. INVALID_ARGUMENT: what is neither. The
  /// request must outlive the call.
  static absl::StatusOr<HttpCall> Begin(const HttpRequest& request);

  absl::Time arrival() const { return arrival_; }  // On Clock::Real(), as is the deadline.
  absl::Time deadline() const { return deadline_; }
  const std::shared_ptr<std::atomic<bool>>& cancelled() const { return cancelled_; }

  /// True once the client has gone; looks only so often as kClientCheck.
  bool Gone();

  using Handle = TextGeneration::Handle;
  template <typename T>
  using Done = std::function<void(absl::StatusOr<T>)>;

  /// Begins work with `start(done)` and waits until it calls `done`. When the client goes,
  /// cancelled() is set, and the handle (may be null) that `start` returned is cancelled; the work
  /// then ends early, and the wait with it.
  template <typename T, typename Start>
  absl::StatusOr<T> Wait(const Start& start) {
    struct State {
      Mutex mutex;
      CondVar changed;
      std::optional<absl::StatusOr<T>> answer;
    };
    const auto state = std::make_shared<State>();
    const Handle handle = start(Done<T>([state](absl::StatusOr<T> answer) {
      MutexLock lock(&state->mutex);
      state->answer = std::move(answer);
      state->changed.Signal();
    }));
    bool told = false;
    for (;;) {
      {
        MutexLock lock(&state->mutex);
        if (!state->answer) state->changed.WaitWithTimeout(&state->mutex, kClientCheck);
        if (state->answer) return *std::move(state->answer);
      }
      if (told || !Gone()) continue;
      told = true;
      if (handle != nullptr) handle->Cancel();
    }
  }

 private:
  HttpCall(const HttpRequest& request, absl::Time arrival, absl::Time deadline)
      : request_(&request), arrival_(arrival), deadline_(deadline), looked_(arrival) {}

  const HttpRequest* request_;
  absl::Time arrival_;
  absl::Time deadline_;
  absl::Time looked_;
  std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
};

/// Room for what a body's JSON takes while it is read; RESOURCE_EXHAUSTED if there is none now.
absl::StatusOr<HeldInput> HoldJson(Inference& inference, const HttpRequest& request);

}  // namespace thresher

#endif  // THRESHER_SERVER_HTTP_CALL_H_
