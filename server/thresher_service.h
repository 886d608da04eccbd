// thresher.v1.Thresher on gRPC.
#ifndef THRESHER_SERVER_THRESHER_SERVICE_H_
#define THRESHER_SERVER_THRESHER_SERVICE_H_

#include "server/inference.h"
#include "server/text_generation.h"
#include "server/thresher_calls.h"
#include "thresher/v1/thresher.grpc.pb.h"

namespace thresher {

// Every method takes and gives bytes, which server/grpc_message.h turns into messages.
using ThresherTexts = v1::Thresher::WithRawCallbackMethod_Generate<
    v1::Thresher::WithRawCallbackMethod_Score<v1::Thresher::Service>>;
using ThresherServiceBase = v1::Thresher::WithRawCallbackMethod_Classify<
    v1::Thresher::WithRawCallbackMethod_Embed<v1::Thresher::WithRawCallbackMethod_TokenClassify<
        v1::Thresher::WithRawCallbackMethod_Answer<
            v1::Thresher::WithRawCallbackMethod_Tokenize<ThresherTexts>>>>>;

class ThresherService final : public ThresherServiceBase {
 public:
  /// Both must outlive the service.
  ThresherService(Inference* inference, TextGeneration* generation)
      : inference_(inference), generation_(generation), calls_(inference) {}

  grpc::ServerUnaryReactor* Classify(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* TokenClassify(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;

 private:
  template <typename Request, typename Response>
  using ThresherMethod = void (ThresherCalls::*)(const Request&, const ThresherCalls::Context&,
                                                 ThresherCalls::Done<Response>);
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Serve(Method method, ThresherMethod<Request, Response> run,
                                  grpc::CallbackServerContext* context, const grpc::ByteBuffer* in,
                                  grpc::ByteBuffer* out);

  Inference* const inference_;
  TextGeneration* const generation_;
  ThresherCalls calls_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_THRESHER_SERVICE_H_
