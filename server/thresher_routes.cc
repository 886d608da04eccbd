#include "server/thresher_routes.h"

#include <google/protobuf/util/json_util.h>

#include <memory>
#include <string>
#include <utility>

#include "backend/tensor/status.h"
#include "proto/json.h"
#include "server/grpc_status.h"
#include "server/http_status.h"
#include "server/http_texts.h"
#include "server/thresher_calls.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {
namespace {

Json ErrorJson(const absl::Status& status) {
  return {{"code", CodeName(status.code())}, {"message", WireMessage(status)}};
}

HttpResponse Error(const absl::Status& status) {
  HttpResponse response{HttpCode(status.code()), "application/json",
                        Dump(ErrorJson(status)) + "\n"};
  AddRetryHint(status, &response);
  return response;
}

absl::Status ReadMessage(const HttpRequest& http, google::protobuf::Message* message) {
  const std::string_view type = http.Header("content-type");
  for (const std::string_view other :
       {"application/proto", "application/grpc", "application/connect"}) {
    if (!type.starts_with(other)) continue;
    return InvalidArgument("content type '{}' is not spoken here; send application/json", type);
  }
  const auto status = google::protobuf::util::JsonStringToMessage(http.body, message);
  if (status.ok()) return absl::OkStatus();
  return InvalidArgument("the body is not the JSON of a {}: {}",
                         message->GetDescriptor()->full_name(),
                         std::string(status.message().data(), status.message().size()));
}

/// One line, without its end.
absl::StatusOr<std::string> WriteMessage(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  if (status.ok()) return text;
  return Internal("the answer can't be written as JSON: {}",
                  std::string(status.message().data(), status.message().size()));
}

/// Reads the request and begins the call; what can't be done is counted as a refusal.
template <typename Request>
absl::StatusOr<HttpCall> Begin(const Handlers& handlers, Method method, const HttpRequest& http,
                               Request* request) {
  auto call = [&]() -> absl::StatusOr<HttpCall> {
    THRESHER_ASSIGN_OR_RETURN(HttpCall begun, HttpCall::Begin(http));
    THRESHER_ASSIGN_OR_RETURN(const HeldInput held, HoldJson(*handlers.inference, http));
    THRESHER_RETURN_IF_ERROR(ReadMessage(http, request));
    return begun;
  }();
  if (!call.ok()) return handlers.inference->Refuse(method, "", 1, call.status());
  return call;
}

HttpResponse Answer(const absl::StatusOr<std::string>& json) {
  if (!json.ok()) return Error(json.status());
  return {200, "application/json", *json + "\n"};
}

/// `start(request, call, done)` begins the work and returns its handle, or null.
template <typename Request, typename Response, typename Start>
HttpRoute Unary(const Handlers& handlers, Method method, Start start) {
  const auto handler = [handlers, method, start](const HttpRequest& http) {
    return Answer([&]() -> absl::StatusOr<std::string> {
      Request request;
      THRESHER_ASSIGN_OR_RETURN(HttpCall call, Begin(handlers, method, http, &request));
      THRESHER_ASSIGN_OR_RETURN(
          const Response response,
          call.Wait<Response>([&](const HttpCall::Done<Response>& done) -> HttpCall::Handle {
            return start(request, call, done);
          }));
      return WriteMessage(response);
    }());
  };
  return {"POST", fmt::format("/thresher.v1.Thresher/{}", Name(method)), handler, /*work=*/true};
}

template <typename Request, typename Response>
HttpRoute Encoder(const Handlers& handlers, Method method,
                  void (ThresherCalls::*run)(const Request&, const ThresherCalls::Context&,
                                             ThresherCalls::Done<Response>)) {
  const auto calls = std::make_shared<ThresherCalls>(handlers.inference);
  return Unary<Request, Response>(
      handlers, method,
      [calls, run](const Request& request, const HttpCall& call,
                   const HttpCall::Done<Response>& done) -> HttpCall::Handle {
        (*calls.*run)(
            request,
            {.arrival = call.arrival(), .deadline = call.deadline(), .cancelled = call.cancelled()},
            done);
        return nullptr;
      });
}

HttpRoute Score(const Handlers& handlers) {
  return Unary<v1::ScoreRequest, v1::ScoreResponse>(
      handlers, Method::kScore,
      [generation = handlers.generation](
          const v1::ScoreRequest& request, const HttpCall& call,
          const HttpCall::Done<v1::ScoreResponse>& done) -> HttpCall::Handle {
        const TextGeneration::Context context = {
            .arrival = call.arrival(),
            .deadline = call.deadline(),
            .cancelled = [cancelled = call.cancelled()] { return cancelled->load(); }};
        auto handle = generation->Score(request, context, done);
        if (handle.ok()) return *std::move(handle);
        done(handle.status());
        return nullptr;
      });
}

/// The first piece has come, so that what is wrong with the request has a status of its own.
void WriteText(HttpTexts& text, absl::StatusOr<HttpTexts::Piece> piece, HttpWriter& writer) {
  for (;; piece = text.Next()) {
    const absl::StatusOr<std::string> line =
        piece.ok() ? WriteMessage(piece->message) : absl::StatusOr<std::string>(piece.status());
    if (!line.ok()) {
      writer.Write(Dump({{"error", ErrorJson(line.status())}}) + "\n");
      return;
    }
    if (!writer.Write(*line + "\n") || text.ended()) return;
  }
}

HttpResponse Generate(const Handlers& handlers, const HttpRequest& http) {
  v1::GenerateRequest request;
  auto call = Begin(handlers, Method::kGenerate, http, &request);
  if (!call.ok()) return Error(call.status());
  auto text =
      HttpTexts::Start(handlers, *std::move(call), 1, [&request](size_t) { return request; });
  if (!text.ok()) return Error(text.status());
  auto first = (*text)->Next();
  if (!first.ok()) return Error(first.status());
  HttpResponse response{200, "application/x-ndjson", ""};
  response.stream = [text = *text, first = *std::move(first)](HttpWriter& writer) {
    WriteText(*text, first, writer);
  };
  return response;
}

}  // namespace

std::vector<HttpRoute> ThresherRoutes(const Handlers& handlers) {
  return {Encoder(handlers, Method::kClassify, &ThresherCalls::Classify),
          Encoder(handlers, Method::kEmbed, &ThresherCalls::Embed),
          Encoder(handlers, Method::kTokenClassify, &ThresherCalls::TokenClassify),
          Encoder(handlers, Method::kAnswer, &ThresherCalls::Answer),
          Encoder(handlers, Method::kTokenize, &ThresherCalls::Tokenize),
          Score(handlers),
          {"POST", "/thresher.v1.Thresher/Generate",
           [handlers](const HttpRequest& http) { return Generate(handlers, http); },
           /*work=*/true}};
}

}  // namespace thresher
