#include "server/thresher_service.h"

#include "backend/tensor/status.h"
#include "server/generate_stream.h"
#include "server/grpc_call.h"

namespace thresher {
namespace {

using Reactor = grpc::ServerUnaryReactor;
using Context = grpc::CallbackServerContext;
using Bytes = grpc::ByteBuffer;

}  // namespace

template <typename Request, typename Response>
Reactor* ThresherService::Serve(Method method, ThresherMethod<Request, Response> run,
                                Context* context, const Bytes* in, Bytes* out) {
  auto* call = new UnaryCall<Request, Response>(context, out);
  if (absl::Status status = call->Parse(*in); !status.ok()) {
    call->Finish(inference_->Refuse(method, "", 1, status));
    return call;
  }
  (calls_.*run)(
      call->request(),
      {.arrival = call->arrival(), .deadline = call->deadline(), .cancelled = call->cancelled()},
      [call](absl::StatusOr<Response> response) {
        const absl::Status status = response.status();
        if (response.ok()) *call->response() = *std::move(response);
        call->Finish(status);
      });
  return call;
}

Reactor* ThresherService::Classify(Context* context, const Bytes* in, Bytes* out) {
  return Serve(Method::kClassify, &ThresherCalls::Classify, context, in, out);
}

Reactor* ThresherService::Embed(Context* context, const Bytes* in, Bytes* out) {
  return Serve(Method::kEmbed, &ThresherCalls::Embed, context, in, out);
}

Reactor* ThresherService::TokenClassify(Context* context, const Bytes* in, Bytes* out) {
  return Serve(Method::kTokenClassify, &ThresherCalls::TokenClassify, context, in, out);
}

Reactor* ThresherService::Answer(Context* context, const Bytes* in, Bytes* out) {
  return Serve(Method::kAnswer, &ThresherCalls::Answer, context, in, out);
}

Reactor* ThresherService::Tokenize(Context* context, const Bytes* in, Bytes* out) {
  return Serve(Method::kTokenize, &ThresherCalls::Tokenize, context, in, out);
}

grpc::ServerWriteReactor<Bytes>* ThresherService::Generate(Context* context, const Bytes* in) {
  return StreamText(generation_, inference_, context, *in);
}

Reactor* ThresherService::Score(Context* context, const Bytes* in, Bytes* out) {
  auto* call = new UnaryCall<v1::ScoreRequest, v1::ScoreResponse>(context, out);
  if (absl::Status status = call->Parse(*in); !status.ok()) {
    call->Finish(inference_->Refuse(Method::kScore, "", 1, status));
    return call;
  }
  // The call may be answered, and so be gone, before Score has returned.
  const auto cancel = call->when_cancelled();
  const auto handle = generation_->Score(
      call->request(),
      {call->arrival(), call->deadline(), [context] { return context->IsCancelled(); }},
      [call](absl::StatusOr<v1::ScoreResponse> response) {
        const absl::Status status = response.status();
        if (response.ok()) {
          *call->response() = *std::move(response);
        }
        call->Finish(status);
      });
  if (handle.ok()) {
    cancel->Set([handle = *handle] { handle->Cancel(); });
  } else {
    call->Finish(handle.status());
  }
  return call;
}

}  // namespace thresher
