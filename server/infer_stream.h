// ModelStreamInfer: requests and answers on one stream, the answers in the order in which they are
// ready, matched by `id`.
//
// Flow is bounded: at kMaxInFlight requests that are not yet answered and sent, a stream is not
// read further, and gRPC's own flow control holds the caller back. A request that fails is answered
// with `error_message` ("CODE: what") beside its id; the stream goes on. The caller's half-close
// ends the stream after the last answer.
//
// A decoder answers one request many times. At kMaxUnsent answers that wait to be sent its text is
// paused until they have gone, so that a slow reader holds back only itself.
#ifndef THRESHER_SERVER_INFER_STREAM_H_
#define THRESHER_SERVER_INFER_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <set>

#include "backend/tensor/mutex.h"
#include "server/open_inference.h"

namespace thresher {

/// The open streams of a server. Thread-safe.
class InferStreams {
 public:
  using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

  static constexpr int kMaxInFlight = 32;
  static constexpr int kMaxUnsent = 64;

  /// `inference` must outlive this object; all streams must have ended before it dies.
  explicit InferStreams(OpenInference* inference) : inference_(inference) {}

  Reactor* Open(grpc::CallbackServerContext* context);

  /// Reads no more; each stream ends with UNAVAILABLE when what it has in flight is answered.
  void EndAll();

 private:
  class Stream;

  OpenInference* const inference_;
  Mutex mutex_;
  bool ending_ = false;
  std::set<Stream*> streams_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_INFER_STREAM_H_
