#include "server/openai_routes.h"

#include <memory>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "absl/time/clock.h"
#include "backend/tensor/status.h"
#include "proto/json.h"
#include "server/http_status.h"
#include "server/http_texts.h"
#include "server/openai_json.h"
#include "server/thresher_calls.h"

namespace thresher {
namespace {

constexpr std::string_view kModels = "/v1/models/";

HttpResponse Answer(const Json& json) { return {200, "application/json", Dump(json) + "\n"}; }

HttpResponse Error(const absl::Status& status) {
  HttpResponse response{HttpCode(status.code()), "application/json",
                        Dump(OpenAiError(status)) + "\n"};
  AddRetryHint(status, &response);
  return response;
}

/// Reads the request by `read(body)` and begins the call; what can't be done is counted as a
/// refusal.
template <typename Request>
absl::StatusOr<HttpCall> Begin(const Handlers& handlers, Method method, const HttpRequest& http,
                               absl::StatusOr<Request> (*read)(std::string_view),
                               Request* request) {
  auto call = [&]() -> absl::StatusOr<HttpCall> {
    THRESHER_ASSIGN_OR_RETURN(HttpCall begun, HttpCall::Begin(http));
    THRESHER_ASSIGN_OR_RETURN(const HeldInput held, HoldJson(*handlers.inference, http));
    THRESHER_ASSIGN_OR_RETURN(*request, read(http.body));
    return begun;
  }();
  if (!call.ok()) return handlers.inference->Refuse(method, "", 1, call.status());
  return call;
}

HttpResponse Embeddings(const Handlers& handlers, const HttpRequest& http) {
  EmbeddingsRequest request;
  const auto response = [&]() -> absl::StatusOr<v1::EmbedResponse> {
    THRESHER_ASSIGN_OR_RETURN(HttpCall call,
                              Begin(handlers, Method::kEmbed, http, &ReadEmbeddings, &request));
    ThresherCalls calls(handlers.inference);
    return call.Wait<v1::EmbedResponse>(
        [&](const HttpCall::Done<v1::EmbedResponse>& done) -> HttpCall::Handle {
          calls.Embed(request.request,
                      {.arrival = call.arrival(),
                       .deadline = call.deadline(),
                       .cancelled = call.cancelled(),
                       .all_or_none = true},
                      done);
          return nullptr;
        });
  }();
  if (!response.ok()) return Error(response.status());
  return Answer(EmbeddingsJson(*response, request.base64));
}

std::string CompletionId() {
  std::random_device device;
  return fmt::format("cmpl-{:08x}{:08x}", device(), device());
}

std::string Event(const Json& json) { return fmt::format("data: {}\n\n", Dump(json)); }

/// The first piece has come, so that what is wrong with the request has a status of its own.
void WriteEvents(HttpTexts& texts, absl::StatusOr<HttpTexts::Piece> piece,
                 CompletionWriter& completion, bool include_usage, HttpWriter& writer) {
  for (;; piece = texts.Next()) {
    if (!piece.ok()) {
      writer.Write(Event(OpenAiError(piece.status())));
      return;
    }
    completion.Add(piece->text, piece->message);
    if (!writer.Write(Event(completion.Take()))) return;
    if (texts.ended()) break;
  }
  if (include_usage) writer.Write(Event(completion.UsageChunk()));
  writer.Write("data: [DONE]\n\n");
}

HttpResponse Completions(const Handlers& handlers, const HttpRequest& http) {
  CompletionRequest request;
  auto call = Begin(handlers, Method::kGenerate, http, &ReadCompletion, &request);
  if (!call.ok()) return Error(call.status());
  size_t begun = 0;
  const auto texts =
      HttpTexts::Start(handlers, *std::move(call), request.choices(), [&](size_t choice) {
        begun = choice;
        return request.Choice(choice);
      });
  if (!texts.ok()) return Error(OfPrompt(request, begun, texts.status()));
  const auto completion =
      std::make_shared<CompletionWriter>(request, CompletionId(), absl::ToUnixSeconds(absl::Now()));
  auto piece = (*texts)->Next();
  if (!request.stream) {
    for (;; piece = (*texts)->Next()) {
      if (!piece.ok()) return Error(piece.status());
      completion->Add(piece->text, piece->message);
      if ((*texts)->ended()) return Answer(completion->Take());
    }
  }
  if (!piece.ok()) return Error(piece.status());
  HttpResponse response{200, "text/event-stream; charset=utf-8", ""};
  response.stream = [texts = *texts, completion, first = *std::move(piece),
                     usage = request.include_usage](HttpWriter& writer) {
    WriteEvents(*texts, first, *completion, usage, writer);
  };
  return response;
}

Json ModelJson(const std::string& name, int64_t created) {
  return {{"id", name}, {"object", "model"}, {"created", created}, {"owned_by", "thresher"}};
}

std::set<std::string> ReadyModels(const ModelRepository& repository) {
  std::set<std::string> names;
  for (const auto& served : repository.Ready()) names.insert(served->name);
  return names;
}

}  // namespace

std::vector<HttpRoute> OpenAiRoutes(const Handlers& handlers) {
  const int64_t created = absl::ToUnixSeconds(absl::Now());
  return {
      {"POST", "/v1/embeddings",
       [handlers](const HttpRequest& http) { return Embeddings(handlers, http); },
       /*work=*/true},
      {"POST", "/v1/completions",
       [handlers](const HttpRequest& http) { return Completions(handlers, http); },
       /*work=*/true},
      {"GET", "/v1/models",
       [repository = handlers.repository, created](const HttpRequest&) {
         Json list = Json::array();
         for (const std::string& name : ReadyModels(*repository)) {
           list.push_back(ModelJson(name, created));
         }
         return Answer({{"object", "list"}, {"data", std::move(list)}});
       }},
      {"GET", "/v1/models/*", [repository = handlers.repository, created](const HttpRequest& http) {
         const auto model = repository->Find(http.path.substr(kModels.size()), "");
         if (!model.ok()) return Error(model.status());
         return Answer(ModelJson((*model)->name, created));
       }}};
}

}  // namespace thresher
