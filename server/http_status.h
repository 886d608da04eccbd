// absl::Status to HTTP: the one place where the server's errors become HTTP's. What the body of an
// error looks like is each front's own.
#ifndef THRESHER_SERVER_HTTP_STATUS_H_
#define THRESHER_SERVER_HTTP_STATUS_H_

#include <string_view>

#include "absl/status/status.h"
#include "server/http_server.h"

namespace thresher {

/// As the Open Inference Protocol's servers, the Connect protocol and most gateways have it:
/// INVALID_ARGUMENT 400, NOT_FOUND 404, RESOURCE_EXHAUSTED 429, CANCELLED 499, INTERNAL 500,
/// UNIMPLEMENTED 501, UNAVAILABLE 503, DEADLINE_EXCEEDED 504.
int HttpCode(absl::StatusCode code);

/// "invalid_argument", as the Connect protocol spells it.
std::string_view CodeName(absl::StatusCode code);

/// Tells the caller, if the status has a retry hint, when to come again: `Retry-After` in whole
/// seconds, and `Retry-After-Ms`, which some clients prefer.
void AddRetryHint(const absl::Status& status, HttpResponse* response);

}  // namespace thresher

#endif  // THRESHER_SERVER_HTTP_STATUS_H_
