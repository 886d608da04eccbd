// The Open Inference Protocol over HTTP, with the usual extensions (model configuration,
// statistics, repository index, binary tensor data). Errors are {"error": "..."}. Models are loaded
// and unloaded by gRPC alone: any page in a browser may post to a port of its own machine.
#ifndef THRESHER_SERVER_OPEN_INFERENCE_ROUTES_H_
#define THRESHER_SERVER_OPEN_INFERENCE_ROUTES_H_

#include <functional>
#include <vector>

#include "server/http_call.h"
#include "server/http_server.h"

namespace thresher {

/// What the handlers point to must outlive the routes. `ready` says whether the server is.
std::vector<HttpRoute> OpenInferenceRoutes(const Handlers& handlers, std::function<bool()> ready);

}  // namespace thresher

#endif  // THRESHER_SERVER_OPEN_INFERENCE_ROUTES_H_
