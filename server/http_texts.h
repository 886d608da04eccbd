// Generated texts on their way to the one HTTP client that waits for them.
//
// A client that is slow holds back its own texts alone: at kMaxUnsent tokens that wait, a text is
// paused until they have gone (generate_stream.h does the same for gRPC). One that goes away ends
// them.
#ifndef THRESHER_SERVER_HTTP_TEXTS_H_
#define THRESHER_SERVER_HTTP_TEXTS_H_

#include <cstddef>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "server/http_call.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {

/// For one thread.
class HttpTexts {
 public:
  /// Begins `count` texts, of which `request(i)` asks for the i-th; after a refusal, which has been
  /// counted, no further one is asked for, and none goes on.
  static absl::StatusOr<std::shared_ptr<HttpTexts>> Start(
      const Handlers& handlers, HttpCall call, size_t count,
      const std::function<v1::GenerateRequest(size_t)>& request);
  /// Cancels what has not ended.
  ~HttpTexts();
  HttpTexts(const HttpTexts&) = delete;
  HttpTexts& operator=(const HttpTexts&) = delete;

  struct Piece {
    size_t text = 0;
    v1::GenerateResponse message;  // One or more tokens, or as the text's last its end.
  };
  /// Waits for what comes next of any text; those that have something take turns. Not once all have
  /// ended, nor after an error, which says why one did not (CANCELLED: the client has gone).
  absl::StatusOr<Piece> Next();
  bool ended() const { return left_ == 0; }

 private:
  class Queue;
  HttpTexts(HttpCall call, std::shared_ptr<Queue> queue, size_t count)
      : call_(std::move(call)), queue_(std::move(queue)), left_(count) {}

  HttpCall call_;
  const std::shared_ptr<Queue> queue_;
  size_t left_;  // Texts whose end has not been handed on.
};

}  // namespace thresher

#endif  // THRESHER_SERVER_HTTP_TEXTS_H_
