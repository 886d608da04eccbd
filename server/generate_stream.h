// thresher.v1.Thresher/Generate on gRPC: one text to one reader.
//
// Tokens that come while a message is being sent go together into the next one. A reader that is
// slow holds back its own text alone: at kMaxUnsent tokens that wait, the text is paused until they
// have gone. A reader that goes away ends the text.
#ifndef THRESHER_SERVER_GENERATE_STREAM_H_
#define THRESHER_SERVER_GENERATE_STREAM_H_

#include <grpcpp/grpcpp.h>

#include "server/text_generation.h"

namespace thresher {

/// Answers one call. Both must outlive it.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StreamText(TextGeneration* generation,
                                                       Inference* inference,
                                                       grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer& request);

}  // namespace thresher

#endif  // THRESHER_SERVER_GENERATE_STREAM_H_
