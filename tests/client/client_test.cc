#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "tests/client/fake_server.h"

namespace thresher::client {
namespace {

using testing::FakeServer;
using ::testing::HasSubstr;

/// Retries without a noticeable pause.
constexpr RetryPolicy kQuick = {.max_attempts = 4,
                                .initial_backoff = absl::Milliseconds(1),
                                .max_backoff = absl::Milliseconds(2)};

std::unique_ptr<Client> ClientOf(const FakeServer& server, RetryPolicy retry = kQuick,
                                 absl::Duration deadline = absl::InfiniteDuration()) {
  auto client = Client::Connect({.server = server.address(), .deadline = deadline, .retry = retry});
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

v1::ClassifyRequest Ask(const std::string& text) {
  v1::ClassifyRequest request;
  request.mutable_model()->set_name("m");
  request.add_inputs()->set_text(text);
  return request;
}

TEST(ClientTest, CallAnswers) {
  FakeServer server;
  const auto response = ClientOf(server)->Call(Ask("abc"));
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->results(0).scores(1), FakeServer::Score("abc"));
}

TEST(ClientTest, FutureAnswers) {
  FakeServer server;
  const auto client = ClientOf(server);
  auto future = client->CallAsync(Ask("abc"));
  const auto response = future.get();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->results_size(), 1);
}

TEST(ClientTest, EveryServiceIsReached) {
  FakeServer server;
  const auto client = ClientOf(server);
  EXPECT_TRUE(client->Call(v1::EmbedRequest()).ok());
  EXPECT_TRUE(client->Call(v1::TokenClassifyRequest()).ok());
  EXPECT_TRUE(client->Call(v1::AnswerRequest()).ok());
  EXPECT_TRUE(client->Call(v1::TokenizeRequest()).ok());
  EXPECT_TRUE(client->Call(v1::ScoreRequest()).ok());
  EXPECT_TRUE(client->Call(inference::ServerLiveRequest())->live());
  const auto health = client->Call(grpc::health::v1::HealthCheckRequest());
  EXPECT_EQ(health->status(), grpc::health::v1::HealthCheckResponse::SERVING);
}

TEST(ClientTest, EveryStatusCodeArrivesWithItsMessage) {
  FakeServer server;
  grpc::StatusCode code = grpc::StatusCode::OK;
  server.before = [&](grpc::CallbackServerContext&) { return grpc::Status(code, "the reason"); };
  const auto client = ClientOf(server, {.max_attempts = 1});
  for (int i = 1; i <= 16; ++i) {
    code = static_cast<grpc::StatusCode>(i);
    const absl::Status status = client->Call(Ask("x")).status();
    EXPECT_EQ(static_cast<int>(status.code()), i);
    EXPECT_EQ(std::string(status.message()), "the reason");
  }
}

TEST(ClientTest, UnavailableIsRetriedUntilItAnswers) {
  FakeServer server;
  server.before = [&](grpc::CallbackServerContext&) {
    return server.calls < 3 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "starting")
                            : grpc::Status::OK;
  };
  EXPECT_TRUE(ClientOf(server)->Call(Ask("x")).ok());
  EXPECT_EQ(server.calls, 3);
}

TEST(ClientTest, RetriesEndAfterTheAttemptsAllowed) {
  FakeServer server;
  server.before = [](grpc::CallbackServerContext&) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone");
  };
  EXPECT_EQ(ClientOf(server)->Call(Ask("x")).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server.calls, 4);
}

TEST(ClientTest, PushbackSaysWhenAFullServerIsAskedAgain) {
  FakeServer server;
  server.before = [&](grpc::CallbackServerContext& context) {
    if (server.calls >= 2) return grpc::Status::OK;
    context.AddTrailingMetadata("grpc-retry-pushback-ms", "1");
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
  };
  // The pause of the policy itself would outlast the test.
  const RetryPolicy slow = {.initial_backoff = absl::Minutes(50), .max_backoff = absl::Hours(1)};
  EXPECT_TRUE(ClientOf(server, slow)->Call(Ask("x")).ok());
  EXPECT_EQ(server.calls, 2);
}

TEST(ClientTest, NegativePushbackForbidsRetries) {
  FakeServer server;
  server.before = [](grpc::CallbackServerContext& context) {
    context.AddTrailingMetadata("grpc-retry-pushback-ms", "-1");
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
  };
  EXPECT_EQ(ClientOf(server)->Call(Ask("x")).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server.calls, 1);
}

TEST(ClientTest, OtherErrorsAreNotRetried) {
  FakeServer server;
  server.before = [](grpc::CallbackServerContext&) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "wrong");
  };
  EXPECT_FALSE(ClientOf(server)->Call(Ask("x")).ok());
  EXPECT_EQ(server.calls, 1);
}

TEST(ClientTest, LoadingAModelIsNotRetried) {
  FakeServer server;
  inference::RepositoryModelLoadRequest request;
  request.set_model_name("m");
  EXPECT_EQ(ClientOf(server)->Call(request).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server.loads, 1);
}

TEST(ClientTest, ServiceConfigIsJsonAndEmptyWithoutRetries) {
  const auto config = nlohmann::json::parse(ServiceConfig(RetryPolicy()));
  const auto& policy = config["methodConfig"][0]["retryPolicy"];
  EXPECT_EQ(policy["maxAttempts"], 4);
  EXPECT_EQ(policy["initialBackoff"], "0.1s");
  EXPECT_EQ(policy["maxBackoff"], "2s");
  EXPECT_EQ(ServiceConfig({.max_attempts = 1}), "{}");
}

/// Holds every call in the server until it is opened.
class Gate {
 public:
  explicit Gate(FakeServer& server) {
    // By value: a handler may still return from its wait when the gate is gone.
    const auto opened = open_promise_.get_future().share();
    const auto arrived = arrived_;
    server.before = [opened, arrived](grpc::CallbackServerContext&) {
      arrived->set_value();
      opened.wait();
      return grpc::Status::OK;
    };
  }
  ~Gate() { Open(); }
  void WaitForCall() { arrived_->get_future().wait(); }
  void Open() {
    if (!std::exchange(open_, true)) open_promise_.set_value();
  }

 private:
  bool open_ = false;
  std::shared_ptr<std::promise<void>> arrived_ = std::make_shared<std::promise<void>>();
  std::promise<void> open_promise_;
};

TEST(ClientTest, DeadlineOfTheCallEndsIt) {
  FakeServer server;
  Gate gate(server);
  const auto status =
      ClientOf(server)->Call(Ask("x"), {.deadline = absl::Milliseconds(20)}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(ClientTest, DeadlineOfTheClientIsTheDefault) {
  FakeServer server;
  Gate gate(server);
  const auto client = ClientOf(server, kQuick, absl::Milliseconds(20));
  EXPECT_EQ(client->CallAsync(Ask("x")).get().status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(ClientTest, StopCancelsACallInFlight) {
  FakeServer server;
  Gate gate(server);
  const auto client = ClientOf(server);
  std::stop_source stop;
  auto future = client->CallAsync(Ask("x"), {.stop = stop.get_token()});
  gate.WaitForCall();
  stop.request_stop();
  EXPECT_EQ(future.get().status().code(), absl::StatusCode::kCancelled);
}

TEST(ClientTest, StopBeforeTheCallCancelsIt) {
  FakeServer server;
  std::stop_source stop;
  stop.request_stop();
  const auto status = ClientOf(server)->Call(Ask("x"), {.stop = stop.get_token()}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(server.calls, 0);
}

TEST(ClientTest, DestructorCancelsAndWaitsForTheCallback) {
  FakeServer server;
  Gate gate(server);
  auto client = ClientOf(server);
  std::atomic<bool> ran = false;
  client->CallAsync<v1::ClassifyRequest>(
      Ask("x"), [&](absl::StatusOr<v1::ClassifyResponse> response) {
        EXPECT_EQ(response.status().code(), absl::StatusCode::kCancelled);
        ran = true;
      });
  gate.WaitForCall();
  client.reset();
  EXPECT_TRUE(ran);
}

TEST(ClientTest, ServerThatIsNotThereIsUnavailable) {
  std::string address;
  {
    const FakeServer gone;
    address = gone.address();
  }
  auto client = Client::Connect({.server = address, .retry = kQuick});
  EXPECT_EQ((*client)->Call(Ask("x")).status().code(), absl::StatusCode::kUnavailable);
}

TEST(ClientTest, ResponseOverTheLimitIsRefused) {
  FakeServer server;
  auto client = Client::Connect(
      {.server = server.address(), .retry = {.max_attempts = 1}, .max_message_bytes = 1000});
  v1::ClassifyRequest request;
  for (int i = 0; i < 100; ++i) request.add_inputs()->set_text("x");
  EXPECT_EQ((*client)->Call(request).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE((*client)->Call(Ask("x")).ok());
}

TEST(ClientTest, OneClientServesManyThreads) {
  FakeServer server;
  const auto client = ClientOf(server);
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::string text(t, 'x');
      for (int i = 0; i < 50; ++i) {
        const auto response =
            i % 2 == 0 ? client->Call(Ask(text)) : client->CallAsync(Ask(text)).get();
        right += response.ok() && response->results(0).scores(1) == FakeServer::Score(text);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 200);
}

TEST(ClientTest, OptionsWithoutSenseAreRefused) {
  const auto code = [](ClientOptions options) {
    return Client::Connect(std::move(options)).status().code();
  };
  EXPECT_EQ(code({.server = ""}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.deadline = absl::ZeroDuration()}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.retry = {.max_attempts = 0}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.retry = {.max_attempts = 6}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.retry = {.initial_backoff = absl::Seconds(3)}}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.max_message_bytes = 0}), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace thresher::client
