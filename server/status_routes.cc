#include "server/status_routes.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "backend/build_info/build_info.h"

namespace thresher {
namespace {

using Json = nlohmann::ordered_json;

HttpResponse JsonResponse(int status, const Json& json) {
  // Paths in reasons may be anything; what is not UTF-8 becomes U+FFFD.
  return {status, "application/json",
          json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"};
}

HttpResponse Root() {
  const BuildInfo& build = GetBuildInfo();
  Json json;
  json["name"] = "thresher";
  json["version"] = build.version;
  json["commit"] = build.commit;
  json["links"] = {{"metrics", "/metrics"}, {"live", "/healthz"}, {"ready", "/readyz"}};
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
       }},
      {"GET", "/healthz",
       [](const HttpRequest&) {
         return HttpResponse{200, "text/plain; charset=utf-8", "ok\n"};
       }},
      {"GET", "/readyz",
       [phase = std::move(phase), repository](const HttpRequest&) {
         return Ready(phase(), *repository);
       }},
  };
}

}  // namespace thresher
