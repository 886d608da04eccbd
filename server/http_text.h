// A generated text on its way to the one HTTP client that waits for it.
//
// A client that is slow holds back its own text alone: at kMaxUnsent tokens that wait, the text is
// paused until they have gone (generate_stream.h does the same for gRPC). One that goes away ends
// it.
#ifndef THRESHER_SERVER_HTTP_TEXT_H_
#define THRESHER_SERVER_HTTP_TEXT_H_

#include <memory>

#include "absl/status/statusor.h"
#include "server/http_call.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {

/// For one thread.
class HttpText {
 public:
  /// Begins the text. A refusal has been counted.
  static absl::StatusOr<std::shared_ptr<HttpText>> Start(const Handlers& handlers, HttpCall call,
                                                         const v1::GenerateRequest& request);
  /// Cancels what has not ended.
  ~HttpText();
  HttpText(const HttpText&) = delete;
  HttpText& operator=(const HttpText&) = delete;

  /// Waits for what comes next: one or more tokens, or as the last message the end. Not after it,
  /// nor after an error, which says why the text ended (CANCELLED: the client has gone).
  absl::StatusOr<v1::GenerateResponse> Next();

 private:
  class Queue;
  HttpText(HttpCall call, std::shared_ptr<Queue> queue)
      : call_(std::move(call)), queue_(std::move(queue)) {}

  HttpCall call_;
  const std::shared_ptr<Queue> queue_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_HTTP_TEXT_H_
