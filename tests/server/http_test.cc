#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "backend/scheduler/clock.h"
#include "backend/tensor/status.h"
#include "server/address.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/model_repository.h"
#include "server/status_routes.h"
#include "tests/server/raw_http_client.h"
#include "tests/server/tiny_checkpoint.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using testing::AskHttp;
using testing::GetText;
using ::testing::HasSubstr;
using testing::ModelAt;
using testing::OnReference;
using testing::ParseAnswer;
using testing::PostText;
using testing::RawClient;
using Response = testing::HttpAnswer;
using ::testing::StartsWith;
using testing::WriteTinyCheckpoint;

class HttpServerTest : public ::testing::Test {
 protected:
  void Start(HttpServerOptions options = {}, std::vector<HttpRoute> more = {}) {
    options.listen = "127.0.0.1:0";
    std::vector<HttpRoute> routes = std::move(more);
    const std::vector<HttpRoute> common = {
        {"GET", "/plain",
         [](const HttpRequest& request) {
           return HttpResponse{200, "text/plain", request.path + "?" + request.query};
         }},
        {"POST", "/echo",
         [](const HttpRequest& request) {
           return HttpResponse{200, "text/plain", request.body};
         }},
        {"GET", "/v2/*",
         [](const HttpRequest& r) {
           return HttpResponse{200, "text/plain", "v2 " + r.path};
         }},
        {"GET", "/v2/models/*",
         [](const HttpRequest& r) {
           return HttpResponse{200, "text/plain", "models " + r.path};
         }},
        {"POST", "/v2/models/*",
         [](const HttpRequest& r) {
           return HttpResponse{200, "text/plain", "post " + r.path};
         }},
        {"GET", "/throws",
         [](const HttpRequest&) -> HttpResponse { throw std::runtime_error("broken \"inside\""); }},
    };
    routes.insert(routes.end(), common.begin(), common.end());
    auto server = HttpServer::Start(options, std::move(routes));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  Response Ask(const std::string& request) { return AskHttp(server_->port(), request); }
  Response Get(const std::string& path) { return Ask(GetText(path)); }

  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, PortZeroPicksOneAndTellsIt) {
  Start();
  EXPECT_GT(server_->port(), 0);
  EXPECT_EQ(server_->address(), "127.0.0.1:" + std::to_string(server_->port()));
  EXPECT_EQ(Get("/plain").status, 200);
}

TEST_F(HttpServerTest, PathAndQueryAreApart) {
  Start();
  const Response response = Get("/pl%61in?a=1&b=%20");
  EXPECT_EQ(response.body, "/plain?a=1&b=%20");
  EXPECT_THAT(response.head, HasSubstr("Content-Type: text/plain\r\n"));
  EXPECT_THAT(response.head, HasSubstr("Content-Length: 16\r\n"));
}

TEST_F(HttpServerTest, HeadHasTheHeadersAlone) {
  Start();
  const Response response = Ask("HEAD /plain HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.head, HasSubstr("Content-Length: 7"));
  EXPECT_EQ(response.body, "");
}

TEST_F(HttpServerTest, TheLongestMatchWins) {
  Start();
  EXPECT_EQ(Get("/v2/").body, "v2 /v2/");
  EXPECT_EQ(Get("/v2/models/m").body, "models /v2/models/m");
  EXPECT_EQ(Ask("POST /v2/models/m HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").body,
            "post /v2/models/m");
}

TEST_F(HttpServerTest, UnknownPathsAre404) {
  Start();
  for (const char* path : {"/", "/nope", "/plain/", "/v2", "/../../etc/passwd", "/%00"}) {
    const Response response = Get(path);
    EXPECT_GE(response.status, 400) << path;
    EXPECT_LT(response.status, 500) << path;
    EXPECT_TRUE(nlohmann::json::parse(response.body).contains("error")) << path;
  }
}

TEST_F(HttpServerTest, OtherMethodsAre405AndSayWhichThereAre) {
  Start();
  for (const char* method : {"POST", "DELETE", "PUT", "OPTIONS"}) {
    const Response response =
        Ask(std::string(method) + " /plain HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    EXPECT_EQ(response.status, 405) << method;
    EXPECT_THAT(response.head, HasSubstr("Allow: GET, HEAD")) << method;
    EXPECT_THAT(std::string(nlohmann::json::parse(response.body)["error"]), HasSubstr(method));
  }
  EXPECT_THAT(Get("/echo").head, HasSubstr("Allow: POST"));
}

TEST_F(HttpServerTest, ABodyArrivesWhole) {
  Start();
  const std::string body(100000, 'b');
  EXPECT_EQ(Ask("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + body).body,
            body);
  EXPECT_EQ(Ask("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
                .body,
            "abcde");
}

TEST_F(HttpServerTest, ATooLargeBodyIsRefused) {
  HttpServerOptions options;
  options.max_body_bytes = 10;
  Start(options);
  EXPECT_EQ(Ask("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789").status,
            200);
  EXPECT_EQ(Ask("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n").status,
            413);
  EXPECT_EQ(Ask("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                "b\r\n01234567890\r\n0\r\n\r\n")
                .status,
            413);
}

TEST_F(HttpServerTest, ABodyThatEndsEarlyIsAnError) {
  Start();
  RawClient client(server_->port());
  client.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123");
  client.EndSending();
  const Response response = ParseAnswer(client.Receive());
  EXPECT_GE(response.status, 400);
  EXPECT_LT(response.status, 500);
}

TEST_F(HttpServerTest, NonsenseIsRefusedAndLeavesTheServerUp) {
  Start();
  for (const std::string& request :
       {std::string("nonsense\r\n\r\n"), std::string("\0\0\0\0\r\n\r\n", 8),
        std::string("GET\r\n\r\n"), std::string("GET /plain HTTP/9.9\r\n\r\n"),
        "GET /plain HTTP/1.1\r\nA: " + std::string(40000, 'a') + "\r\n\r\n",
        "GET /" + std::string(40000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n",
        std::string("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"),
        std::string(
            "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")}) {
    RawClient client(server_->port());
    client.Send(request);
    client.EndSending();
    const Response response = ParseAnswer(client.Receive());
    EXPECT_TRUE(response.status == 0 || response.status >= 400) << request.substr(0, 40);
  }
  EXPECT_EQ(Get("/plain").status, 200);
}

TEST_F(HttpServerTest, AHandlerThatThrowsIs500) {
  Start();
  const Response response = Get("/throws");
  EXPECT_EQ(response.status, 500);
  EXPECT_EQ(nlohmann::json::parse(response.body)["error"], "broken \"inside\"");
}

TEST_F(HttpServerTest, SlowClientsAreHungUpOn) {
  HttpServerOptions options;
  options.timeout = absl::Milliseconds(50);
  options.threads = 2;
  Start(options);
  // More than there are threads, all silent: each is closed, and then there is room again.
  std::vector<std::unique_ptr<RawClient>> slow;
  for (int i = 0; i < 4; ++i) slow.push_back(std::make_unique<RawClient>(server_->port()));
  slow[1]->Send("GET /plain HTTP/1.1\r\n");
  slow[2]->Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123");
  for (auto& client : slow) {
    ASSERT_TRUE(client->connected());
    EXPECT_THAT(client->Receive(), ::testing::Not(HasSubstr("(timeout)")));
  }
  EXPECT_EQ(Get("/plain").status, 200);
}

TEST_F(HttpServerTest, ABodyThatNobodyWantsIsNotWaitedFor) {
  HttpServerOptions options;
  options.timeout = absl::Hours(1);
  Start(options);
  EXPECT_EQ(Ask("GET /plain HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\nabc").status,
            200);
}

TEST_F(HttpServerTest, HeadersComeInLowerCaseAndGoAsTheyAre) {
  Start({}, {{"GET", "/headers", [](const HttpRequest& request) {
                HttpResponse response{200, "text/plain", std::string(request.Header("x-a"))};
                response.body += "|" + std::string(request.Header("x-none"));
                response.headers.emplace_back("X-B", "b");
                return response;
              }}});
  const Response response = Ask(GetText("/headers", "X-A: one\r\nx-a: two\r\n"));
  EXPECT_EQ(response.body, "one, two|");
  EXPECT_EQ(response.Header("X-B"), "b");
}

TEST_F(HttpServerTest, ALongBodyArrivesWholeAndSoonEvenInPieces) {
  Start();
  std::string body;
  while (body.size() < 3'000'000) body += std::to_string(body.size()) + ",";
  EXPECT_EQ(Ask(PostText("/echo", body)).body, body);
  const std::string request = PostText("/echo", body);
  RawClient client(server_->port());
  for (size_t at = 0; at < request.size(); at += 333'333) client.Send(request.substr(at, 333'333));
  EXPECT_EQ(ParseAnswer(client.Receive()).body, body);
}

TEST_F(HttpServerTest, AClientThatAsksFirstIsToldToGoOn) {
  Start();
  RawClient client(server_->port());
  client.Send(
      "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.ReceiveUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("abc");
  EXPECT_EQ(ParseAnswer(client.Receive()).body, "abc");
}

/// A stream of "one", and of "two" once `go` is notified.
HttpRoute Stream(absl::Notification* go) {
  return {"GET", "/stream", [go](const HttpRequest&) {
            HttpResponse response{200, "text/plain", ""};
            response.stream = [go](HttpWriter& writer) {
              EXPECT_TRUE(writer.Write("one"));
              go->WaitForNotification();
              EXPECT_TRUE(writer.Write(""));
              EXPECT_TRUE(writer.Write("two"));
            };
            return response;
          }};
}

TEST_F(HttpServerTest, AStreamIsSentAsItComes) {
  absl::Notification go;
  Start({}, {Stream(&go)});
  RawClient client(server_->port());
  client.Send(GetText("/stream"));
  const std::string begun = client.ReceiveUntil("one");
  EXPECT_THAT(begun, HasSubstr("one"));
  go.Notify();
  const Response response = ParseAnswer(begun + client.Receive());
  EXPECT_EQ(response.Header("Transfer-Encoding"), "chunked");
  EXPECT_EQ(response.Header("Content-Length"), "");
  EXPECT_EQ(response.body, "onetwo");
}

TEST_F(HttpServerTest, AnOldClientGetsAStreamUpToTheHangUp) {
  absl::Notification go;
  go.Notify();
  Start({}, {Stream(&go)});
  const Response response = Ask("GET /stream HTTP/1.0\r\n\r\n");
  EXPECT_EQ(response.Header("Transfer-Encoding"), "");
  EXPECT_EQ(response.body, "onetwo");
}

TEST_F(HttpServerTest, AStreamThatThrowsIsSeenToBeBroken) {
  Start({}, {{"GET", "/throws-late", [](const HttpRequest&) {
                HttpResponse response{200, "text/plain", ""};
                response.stream = [](HttpWriter& writer) {
                  writer.Write("half");
                  throw std::runtime_error("broken");
                };
                return response;
              }}});
  EXPECT_EQ(Get("/throws-late").body, "half(broken)");
}

TEST_F(HttpServerTest, AHandlerSeesThatItsClientHasGone) {
  absl::Notification began, saw;
  Start({}, {{"GET", "/wait", [&](const HttpRequest& request) {
                EXPECT_FALSE(request.gone());
                began.Notify();
                while (!request.gone()) std::this_thread::yield();
                saw.Notify();
                return HttpResponse{};
              }}});
  {
    RawClient client(server_->port());
    client.Send(GetText("/wait"));
    began.WaitForNotification();
  }
  saw.WaitForNotification();
}

TEST_F(HttpServerTest, AStreamSeesThatItsClientHasGone) {
  absl::Notification saw;
  Start({}, {{"GET", "/endless", [&](const HttpRequest&) {
                HttpResponse response{200, "text/plain", ""};
                response.stream = [&](HttpWriter& writer) {
                  while (writer.Write("more")) {
                  }
                  EXPECT_FALSE(writer.Write("more"));
                  saw.Notify();
                };
                return response;
              }}});
  {
    RawClient client(server_->port());
    client.Send(GetText("/endless"));
    EXPECT_THAT(client.ReceiveUntil("more"), HasSubstr("more"));
  }
  saw.WaitForNotification();
}

TEST_F(HttpServerTest, AStreamWhoseClientTakesNothingEnds) {
  absl::Notification saw;
  HttpServerOptions options;
  options.timeout = absl::Milliseconds(50);
  const std::string piece(size_t{1} << 20, 'p');
  Start(options, {{"GET", "/much", [&](const HttpRequest&) {
                     HttpResponse response{200, "text/plain", ""};
                     response.stream = [&](HttpWriter& writer) {
                       while (writer.Write(piece)) {
                       }
                       saw.Notify();
                     };
                     return response;
                   }}});
  RawClient client(server_->port());
  client.Send(GetText("/much"));
  saw.WaitForNotification();
}

class HttpCallsTest : public HttpServerTest {
 protected:
  /// Two calls at a time, which wait for `go_`; threads for one more request.
  void StartCalls() {
    HttpServerOptions options;
    options.threads = 1;
    options.max_calls = 2;
    Start(options, {{"GET", "/call",
                     [this](const HttpRequest& request) {
                       ++running_;
                       while (!go_.HasBeenNotified() && !request.gone()) std::this_thread::yield();
                       return HttpResponse{200, "text/plain", "done"};
                     },
                     /*work=*/true}});
  }
  std::unique_ptr<RawClient> Call() {
    auto client = std::make_unique<RawClient>(server_->port());
    client->Send(GetText("/call"));
    return client;
  }
  void AwaitRunning(int count) {
    while (running_ != count) std::this_thread::yield();
  }

  absl::Notification go_;
  std::atomic<int> running_ = 0;
};

TEST_F(HttpCallsTest, CallsBeyondTheMostAreRefusedAtOnceAndOthersServed) {
  StartCalls();
  const auto one = Call();
  const auto two = Call();
  AwaitRunning(2);
  const Response refused = Get("/call");
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.Header("Retry-After"), "1");
  EXPECT_THAT(std::string(nlohmann::json::parse(refused.body)["error"]), HasSubstr("2 calls"));
  EXPECT_EQ(Get("/plain").status, 200);
  EXPECT_FALSE(server_->WaitIdle(Clock::Real()->Now()));
  go_.Notify();
  EXPECT_EQ(ParseAnswer(one->Receive()).body, "done");
  EXPECT_EQ(ParseAnswer(two->Receive()).body, "done");
  EXPECT_TRUE(server_->WaitIdle(absl::InfiniteFuture()));
  EXPECT_EQ(Get("/call").status, 200);
}

TEST_F(HttpCallsTest, AServerThatStopsTellsItsCallsThatNobodyWaits) {
  StartCalls();
  const auto one = Call();
  AwaitRunning(1);
  server_.reset();  // Waits for the call, which only ends because it is told.
}

TEST_F(HttpServerTest, ATakenAddressIsNamedWithTheReason) {
  Start();
  HttpServerOptions options;
  options.listen = server_->address();
  const auto second = HttpServer::Start(options, {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(second.status()), HasSubstr(server_->address()));
  EXPECT_THAT(Message(second.status()), HasSubstr("in use"));
}

TEST_F(HttpServerTest, AddressesOfOthersAndNonsenseAreErrors) {
  for (const char* listen : {"192.0.2.1:0", "no.such.host.invalid:0", "nonsense"}) {
    HttpServerOptions options;
    options.listen = listen;
    const auto server = HttpServer::Start(options, {});
    ASSERT_FALSE(server.ok()) << listen;
    EXPECT_THAT(Message(server.status()), HasSubstr(listen));
  }
}

TEST_F(HttpServerTest, NamesAndIpv6AreTaken) {
  for (const std::string host : {"localhost", "0.0.0.0", "[::1]", "[::]"}) {
    HttpServerOptions options;
    options.listen = host + ":0";
    const auto server = HttpServer::Start(options, {});
    // A machine may have no IPv6.
    if (!server.ok() && host[0] == '[') continue;
    ASSERT_TRUE(server.ok()) << server.status();
    EXPECT_GT((*server)->port(), 0) << host;
    EXPECT_THAT((*server)->address(), StartsWith(host + ":"));
  }
}

TEST(StatusRoutesTest, TellWhatTheServerDoes) {
  testing::TempDir dir;
  WriteTinyCheckpoint(dir.path() / "m");
  ModelRepository repository(OnReference(), {ModelAt("m", dir.path() / "m")});
  Metrics metrics;
  metrics.Watch(nullptr, &repository);
  std::string_view phase = "starting";
  HttpServerOptions options;
  options.listen = "127.0.0.1:0";
  const auto server =
      HttpServer::Start(options, StatusRoutes([&] { return phase; }, &metrics, &repository));
  ASSERT_TRUE(server.ok()) << server.status();
  const auto get = [&](const std::string& path) {
    return AskHttp((*server)->port(), GetText(path));
  };

  EXPECT_EQ(get("/healthz").status, 200);
  Response ready = get("/readyz");
  EXPECT_EQ(ready.status, 503);
  nlohmann::json json = nlohmann::json::parse(ready.body);
  EXPECT_EQ(json["ready"], false);
  EXPECT_EQ(json["phase"], "starting");
  EXPECT_EQ(json["models"][0]["state"], "UNAVAILABLE");
  EXPECT_EQ(json["models"][0]["reason"], "not loaded yet");

  phase = "serving";
  EXPECT_EQ(get("/readyz").status, 503);  // Its model is missing.
  ASSERT_TRUE(repository.LoadAll().ok());
  ready = get("/readyz");
  EXPECT_EQ(ready.status, 200);
  EXPECT_EQ(nlohmann::json::parse(ready.body)["models"][0]["version"], "1");
  phase = "draining";
  EXPECT_EQ(get("/readyz").status, 503);
  EXPECT_EQ(get("/healthz").status, 200);

  const Response text = get("/metrics");
  EXPECT_THAT(text.head, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_THAT(text.body, HasSubstr("thresher_model_ready{model=\"m\",version=\"1\"} 1\n"));
  json = nlohmann::json::parse(get("/").body);
  EXPECT_EQ(json["name"], "thresher");
  EXPECT_EQ(json["links"]["metrics"], "/metrics");
}

}  // namespace
}  // namespace thresher
