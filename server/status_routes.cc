#include "server/status_routes.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace thresher {
namespace {

using Json = nlohmann::ordered_json;

HttpResponse JsonResponse(int status, const Json& json) {
  // Paths in reasons may be anything; what is not UTF-8 becomes U+FFFD.
  return {status, "application/json",
          json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"};
}

/// Public, so it tells no more than where to look.
HttpResponse Root() {
  Json json;
  json["name"] = "thresher";
  json["links"] = {{"metrics", "/metrics"},
                   {"live", "/healthz"},
                   {"ready", "/readyz"},
                   {"open_inference", "/v2"},
                   {"openai", "/v1/models"}};
  return JsonResponse(200, json);
}

HttpResponse Ready(std::string_view phase, const ModelRepository& repository) {
  const bool ready = phase == "serving" && repository.AllReady();
  Json json;
  json["ready"] = ready;
  json["phase"] = phase;
  json["models"] = Json::array();
  for (const ModelIndexEntry& entry : repository.Index()) {
    Json model;
    model["name"] = entry.name;
    model["version"] = entry.version;
    model["state"] = Name(entry.state);
    if (!entry.reason.empty()) model["reason"] = entry.reason;
    json["models"].push_back(std::move(model));
  }
  return JsonResponse(ready ? 200 : 503, json);
}

}  // namespace

std::vector<HttpRoute> StatusRoutes(std::function<std::string_view()> phase, Metrics* metrics,
                                    const ModelRepository* repository) {
  return {
      {"GET", "/", [](const HttpRequest&) { return Root(); }},
      {"GET", "/metrics",
       [metrics](const HttpRequest&) {
         return HttpResponse{200, "text/plain; version=0.0.4; charset=utf-8",
                             metrics->Exposition()};
       },
       /*work=*/false, Door::kMetrics},
      {"GET", "/healthz",
       [](const HttpRequest&) {
         return HttpResponse{200, "text/plain; charset=utf-8", "ok\n"};
       },
       /*work=*/false, Door::kHealth},
      {"GET", "/readyz",
       [phase = std::move(phase), repository](const HttpRequest&) {
         return Ready(phase(), *repository);
       },
       /*work=*/false, Door::kHealth},
  };
}

}  // namespace thresher
