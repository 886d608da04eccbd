// Messages read from and written to gRPC's byte buffers by ourselves. gRPC's own reading answers
// UNIMPLEMENTED without a word where a string is not UTF-8; this says INVALID_ARGUMENT and where.
#ifndef THRESHER_SERVER_GRPC_MESSAGE_H_
#define THRESHER_SERVER_GRPC_MESSAGE_H_

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"

namespace thresher {

/// INVALID_ARGUMENT: not a message of this type, or a string in it is not UTF-8 ("inputs[2].text").
absl::Status ParseMessage(const grpc::ByteBuffer& buffer, google::protobuf::Message* message);

/// The message's type must be one of a generated service, whose header says how it is written.
template <typename T>
grpc::Status SerializeMessage(const T& message, grpc::ByteBuffer* buffer) {
  bool own_buffer = false;
  return grpc::SerializationTraits<T>::Serialize(message, buffer, &own_buffer);
}

}  // namespace thresher

#endif  // THRESHER_SERVER_GRPC_MESSAGE_H_
