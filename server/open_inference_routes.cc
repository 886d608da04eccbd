#include "server/open_inference_routes.h"

#include <charconv>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "backend/tensor/status.h"
#include "proto/json.h"
#include "server/grpc_status.h"
#include "server/http_status.h"
#include "server/open_inference.h"
#include "server/open_inference_json.h"

namespace thresher {
namespace {

constexpr std::string_view kModels = "/v2/models/";
constexpr const char* kJsonLength = "Inference-Header-Content-Length";

HttpResponse Error(const absl::Status& status) {
  HttpResponse response = HttpError(HttpCode(status.code()), WireMessage(status));
  AddRetryHint(status, &response);
  return response;
}

template <typename Message>
HttpResponse Answer(const absl::StatusOr<Message>& message) {
  if (!message.ok()) return Error(message.status());
  return {200, "application/json", Dump(ToJson(*message)) + "\n"};
}

/// /v2/models/NAME[/versions/VERSION][/WHAT]
struct ModelPath {
  std::string name;
  std::string version;
  std::string what;
};

std::optional<ModelPath> ParsePath(std::string_view path) {
  path.remove_prefix(kModels.size());
  const auto next = [&path] {
    const size_t end = path.find('/');
    const std::string_view part = path.substr(0, end);
    path.remove_prefix(end == std::string_view::npos ? path.size() : end + 1);
    return std::string(part);
  };
  ModelPath out;
  out.name = next();
  if (out.name.empty()) return std::nullopt;
  out.what = next();
  if (out.what == "versions") {
    out.version = next();
    if (out.version.empty()) return std::nullopt;
    out.what = next();
  }
  if (!path.empty()) return std::nullopt;
  return out;
}

HttpResponse NotFound(const HttpRequest& http) {
  return HttpError(404, fmt::format("nothing at {}", http.path));
}

template <typename Request>
Request About(const ModelPath& path) {
  Request request;
  request.set_name(path.name);
  request.set_version(path.version);
  return request;
}

/// The protocol tells readiness by the code: 200, or 400.
HttpResponse Readiness(const ModelPath& path, const absl::StatusOr<bool>& ready) {
  if (!ready.ok()) return Error(ready.status());
  Json json;
  if (!path.name.empty()) json["name"] = path.name;
  if (!path.version.empty()) json["version"] = path.version;
  json["ready"] = *ready;
  return {*ready ? 200 : 400, "application/json", Dump(json) + "\n"};
}

HttpResponse AboutModel(const OpenInference& inference, const HttpRequest& http) {
  const auto path = ParsePath(http.path);
  if (!path) return NotFound(http);
  if (path->name == "stats" && path->what.empty()) {
    return Answer(inference.ModelStatistics({}));
  }
  if (path->what.empty()) {
    return Answer(inference.ModelMetadata(About<inference::ModelMetadataRequest>(*path)));
  }
  if (path->what == "ready") {
    const auto answer = inference.ModelReady(About<inference::ModelReadyRequest>(*path));
    return Readiness(*path, answer.ok() ? absl::StatusOr<bool>(answer->ready()) : answer.status());
  }
  if (path->what == "config") {
    const auto answer = inference.ModelConfig(About<inference::ModelConfigRequest>(*path));
    return Answer(answer.ok() ? absl::StatusOr<inference::ModelConfig>(answer->config())
                              : answer.status());
  }
  if (path->what == "stats") {
    return Answer(inference.ModelStatistics(About<inference::ModelStatisticsRequest>(*path)));
  }
  return NotFound(http);
}

/// How much of the body is JSON, if the header says.
absl::StatusOr<std::optional<size_t>> JsonBytes(const HttpRequest& http) {
  const std::string_view text = http.Header("inference-header-content-length");
  if (text.empty()) return std::optional<size_t>();
  size_t bytes = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bytes);
  if (error == std::errc() && end == text.data() + text.size()) return std::optional(bytes);
  return InvalidArgument("header {}: '{}' is no number of bytes", kJsonLength, text);
}

HttpResponse Infer(const Handlers& handlers, OpenInference& inference, const HttpRequest& http) {
  const auto path = ParsePath(http.path);
  if (!path || path->what != "infer") return NotFound(http);
  OutputForms forms;
  const auto answer = [&]() -> absl::StatusOr<inference::ModelInferResponse> {
    InferJson json;
    auto call = [&]() -> absl::StatusOr<HttpCall> {
      THRESHER_ASSIGN_OR_RETURN(HttpCall begun, HttpCall::Begin(http));
      THRESHER_ASSIGN_OR_RETURN(const HeldInput held, HoldJson(*handlers.inference, http));
      THRESHER_ASSIGN_OR_RETURN(const std::optional<size_t> json_bytes, JsonBytes(http));
      THRESHER_ASSIGN_OR_RETURN(json, ReadInferJson(http.body, json_bytes));
      return begun;
    }();
    if (!call.ok()) {
      return handlers.inference->Refuse(Method::kModelInfer, "", 1, call.status());
    }
    forms = std::move(json.outputs);
    json.request.set_model_name(path->name);
    json.request.set_model_version(path->version);
    return call->Wait<inference::ModelInferResponse>(
        [&](const HttpCall::Done<inference::ModelInferResponse>& done) {
          return inference.Infer(&json.request,
                                 {.arrival = call->arrival(),
                                  .deadline = call->deadline(),
                                  .cancelled = call->cancelled()},
                                 done);
        });
  }();
  if (!answer.ok()) return Error(answer.status());
  InferBody body = WriteInferJson(*answer, forms);
  if (!body.json_bytes) return {200, "application/json", body.bytes + "\n"};
  HttpResponse response{200, "application/octet-stream", std::move(body.bytes)};
  response.headers.emplace_back(kJsonLength, std::to_string(*body.json_bytes));
  return response;
}

}  // namespace

std::vector<HttpRoute> OpenInferenceRoutes(const Handlers& handlers, std::function<bool()> ready) {
  const auto inference =
      std::make_shared<OpenInference>(handlers.inference, handlers.generation, handlers.repository);
  const auto metadata = [inference](const HttpRequest&) {
    inference::ServerMetadataResponse about = inference->ServerMetadata();
    about.add_extensions("binary_tensor_data");
    return Answer<inference::ServerMetadataResponse>(about);
  };
  return {
      {"GET", "/v2", metadata},
      {"GET", "/v2/", metadata},
      {"GET", "/v2/health/live",
       [](const HttpRequest&) {
         return HttpResponse{200, "application/json", "{\"live\":true}\n"};
       },
       /*work=*/false, Door::kHealth},
      {"GET", "/v2/health/ready",
       [ready = std::move(ready), inference = handlers.inference](const HttpRequest&) {
         return Readiness({}, ready() && !inference->draining());
       },
       /*work=*/false, Door::kHealth},
      {"GET", "/v2/models/*",
       [inference](const HttpRequest& http) { return AboutModel(*inference, http); }},
      {"POST", "/v2/models/*",
       [handlers, inference](const HttpRequest& http) { return Infer(handlers, *inference, http); },
       /*work=*/true},
      {"POST", "/v2/repository/index", [inference](const HttpRequest&) {
         // A list, and not an object with one.
         return HttpResponse{200, "application/json",
                             Dump(ToJson(inference->RepositoryIndex({}))["models"]) + "\n"};
       }}};
}

}  // namespace thresher
