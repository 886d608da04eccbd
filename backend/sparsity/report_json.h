// A pruning report as JSON: what the command prints and what Open Inference answers with.
#ifndef THRESHER_BACKEND_SPARSITY_REPORT_JSON_H_
#define THRESHER_BACKEND_SPARSITY_REPORT_JSON_H_

#include <google/protobuf/repeated_field.h>

#include "proto/json.h"
#include "thresher/v1/sparsity.pb.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {

/// The message, and before its parts `keep` (done over dense by kind), `bytes` and `refetch_share`.
/// With `pieces`, the tokens that token_layers counts layers of: `tokens`, for each its text, its
/// place in the input and how many layers it went through.
Json ReportJson(const v1::PruningReport& report,
                const google::protobuf::RepeatedPtrField<v1::Token>& pieces = {});

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_REPORT_JSON_H_
