// What answers of every kind have in common: their times on the wire, and what of a pruning report
// is measured, counted and told.
#ifndef THRESHER_SERVER_REQUEST_ACCOUNT_H_
#define THRESHER_SERVER_REQUEST_ACCOUNT_H_

#include <string>
#include <string_view>

#include "backend/engine/engine.h"
#include "backend/sparsity/policy.h"
#include "server/metrics.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {

v1::Timings ToProto(const RequestTimes& times);

/// "dense" for null.
std::string PolicyName(const Policy* policy);

/// Counts what ran; what was measured for that alone is no part of an answer that does not explain.
void Account(Metrics& metrics, std::string_view model, const std::string& policy, bool explain,
             v1::PruningReport* report);

}  // namespace thresher

#endif  // THRESHER_SERVER_REQUEST_ACCOUNT_H_
