// What was computed, as response parameters of the Open Inference Protocol.
#ifndef THRESHER_SERVER_OPEN_INFERENCE_REPORT_H_
#define THRESHER_SERVER_OPEN_INFERENCE_REPORT_H_

#include <string>

#include "inference/open_inference_grpc.pb.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

using InferFacts = google::protobuf::Map<std::string, inference::InferParameter>;

/// NAME_dense and NAME_done.
void FillAmount(const std::string& name, const v1::PruningReport::Amount& amount,
                InferFacts* facts);

/// For each kind of work its amount and `keep_KIND`; bytes; softmax, refetched and predicted rows.
void FillWork(const v1::PruningReport::Work& work, InferFacts* facts);

}  // namespace thresher

#endif  // THRESHER_SERVER_OPEN_INFERENCE_REPORT_H_
