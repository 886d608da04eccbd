// OpenAI's API, as far as it fits: POST /v1/embeddings on encoders, POST /v1/completions on
// decoders (streamed as server-sent events where asked), GET /v1/models. Errors have OpenAI's form.
#ifndef THRESHER_SERVER_OPENAI_ROUTES_H_
#define THRESHER_SERVER_OPENAI_ROUTES_H_

#include <vector>

#include "server/http_call.h"
#include "server/http_server.h"

namespace thresher {

/// What the handlers point to must outlive the routes.
std::vector<HttpRoute> OpenAiRoutes(const Handlers& handlers);

}  // namespace thresher

#endif  // THRESHER_SERVER_OPENAI_ROUTES_H_
