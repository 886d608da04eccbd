// absl::Status to gRPC: the one place where the server's errors become wire errors.
#ifndef THRESHER_SERVER_GRPC_STATUS_H_
#define THRESHER_SERVER_GRPC_STATUS_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {

/// The same code (the two lists are one) and the message, made fit for a trailer: see WireMessage.
grpc::Status ToGrpc(const absl::Status& status);

/// Tells the caller, if the status has a retry hint, when to come again: trailing metadata
/// `grpc-retry-pushback-ms` (gRFC A6), which gRPC's own retries obey.
void AddRetryHint(const absl::Status& status, grpc::CallbackServerContext* context);

/// The same as a message, for results that fail alone.
v1::Status ToProto(const absl::Status& status);

/// The status' message as valid UTF-8 of at most 2 KiB. Messages may quote what a client sent, a
/// Protobuf string must be UTF-8, and clients refuse trailers above 8 KiB.
std::string WireMessage(const absl::Status& status);

}  // namespace thresher

#endif  // THRESHER_SERVER_GRPC_STATUS_H_
