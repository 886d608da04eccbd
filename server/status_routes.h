// What the server tells of itself over HTTP: /, /metrics, /healthz, /readyz.
#ifndef THRESHER_SERVER_STATUS_ROUTES_H_
#define THRESHER_SERVER_STATUS_ROUTES_H_

#include <functional>
#include <string_view>
#include <vector>

#include "server/http_server.h"
#include "server/metrics.h"
#include "server/model_repository.h"

namespace thresher {

/// `phase` names what the server is doing; it is ready in phase "serving" alone, and only when
/// every model that was asked for has a version ready. All must outlive the routes.
///   /healthz  200 while the process answers.
///   /readyz   200 or 503, JSON: ready, phase, and each model version with its state and reason.
std::vector<HttpRoute> StatusRoutes(std::function<std::string_view()> phase, Metrics* metrics,
                                    const ModelRepository* repository);

}  // namespace thresher

#endif  // THRESHER_SERVER_STATUS_ROUTES_H_
