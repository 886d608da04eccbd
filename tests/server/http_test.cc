#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "backend/tensor/status.h"
#include "server/address.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/model_repository.h"
#include "server/status_routes.h"
#include "tests/server/tiny_checkpoint.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::HasSubstr;
using testing::ModelAt;
using testing::OnReference;
using ::testing::StartsWith;
using testing::WriteTinyCheckpoint;

/// A connection that sends what it is told, byte for byte.
class RawClient {
 public:
  explicit RawClient(int port) : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval patience = {30, 0};  // Only so that a failure does not hang.
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~RawClient() { close(socket_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return connected_; }
  void Send(const std::string& text) {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t count = send(socket_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) return;  // The server has hung up, as it may.
      sent += static_cast<size_t>(count);
    }
  }
  void EndSending() { shutdown(socket_, SHUT_WR); }
  /// All that comes until the server closes; "(timeout)" at the end if it does not.
  std::string Receive() {
    std::string all;
    char buffer[4096];
    for (;;) {
      const ssize_t count = recv(socket_, buffer, sizeof(buffer), 0);
      if (count == 0) return all;
      if (count < 0) return errno == EAGAIN ? all + "(timeout)" : all;
      all.append(buffer, static_cast<size_t>(count));
    }
  }

 private:
  int socket_;
  bool connected_ = false;
};

struct Response {
  int status = 0;
  std::string head;
  std::string body;
};

Response Parse(const std::string& text) {
  Response response;
  const size_t end = text.find("\r\n\r\n");
  response.head = text.substr(0, end);
  if (end != std::string::npos) response.body = text.substr(end + 4);
  if (text.starts_with("HTTP/1.1 ")) response.status = std::stoi(text.substr(9, 3));
  return response;
}

class HttpServerTest : public ::testing::Test {
 protected:
  void Start(HttpServerOptions options = {}) {
    options.listen = "127.0.0.1:0";
    std::vector<HttpRoute> routes = {
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
    auto server = HttpServer::Start(options, std::move(routes));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  Response Ask(const std::string& request) {
    RawClient client(server_->port());
    client.Send(request);
    return Parse(client.Receive());
  }
  Response Get(const std::string& path) {
    return Ask("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n");
  }

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
  const Response response = Parse(client.Receive());
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
    const Response response = Parse(client.Receive());
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
    RawClient client((*server)->port());
    client.Send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n");
    return Parse(client.Receive());
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
