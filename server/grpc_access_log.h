// The access log of the gRPC front, and the headers `x-request-id` and `traceresponse` of answers.
#ifndef THRESHER_SERVER_GRPC_ACCESS_LOG_H_
#define THRESHER_SERVER_GRPC_ACCESS_LOG_H_

#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "server/access_log.h"
#include "server/authorizer.h"

namespace thresher {

/// Sees every call of every service, from its beginning to its end. `authorizer` tells callers'
/// names, and may be null; it must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeGrpcAccessLog(
    const AccessLog& log, const Authorizer* authorizer);

}  // namespace thresher

#endif  // THRESHER_SERVER_GRPC_ACCESS_LOG_H_
