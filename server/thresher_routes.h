// thresher.v1.Thresher as JSON over HTTP: POST /thresher.v1.Thresher/METHOD with the request in
// Protobuf's JSON mapping, the answer likewise, every field under the schema's own name.
//
// For unary methods this is what the Connect protocol's clients send and expect, errors ({"code",
// "message"}) included. Generate answers with lines of JSON, a GenerateResponse each; if the text
// fails half way, the last line is {"error": {"code", "message"}}.
#ifndef THRESHER_SERVER_THRESHER_ROUTES_H_
#define THRESHER_SERVER_THRESHER_ROUTES_H_

#include <vector>

#include "server/http_call.h"
#include "server/http_server.h"

namespace thresher {

/// What the handlers point to must outlive the routes.
std::vector<HttpRoute> ThresherRoutes(const Handlers& handlers);

}  // namespace thresher

#endif  // THRESHER_SERVER_THRESHER_ROUTES_H_
