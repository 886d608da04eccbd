// The real port against a real server whose answers are made up.
#include "client/load/grpc_port.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "client/load/load_run.h"
#include "tests/client/fake_server.h"

namespace thresher::load {
namespace {

using thresher::testing::FakeServer;

class GrpcPortTest : public ::testing::Test {
 protected:
  void Connect(int connections, absl::Duration deadline = absl::Minutes(1)) {
    std::vector<client::Client*> clients;
    for (int i = 0; i < connections; ++i) {
      clients_.push_back(
          *client::Client::Connect({.server = server_.address(), .retry = {.max_attempts = 1}}));
      clients.push_back(clients_.back().get());
    }
    port_ = std::make_unique<GrpcPort>(clients, deadline, nullptr);
  }
  void Ask(const std::string& mix, std::vector<Text> texts, int batch = 1) {
    WorkloadOptions options = {.batch = batch};
    options.parts = *ParseMix(mix);
    for (PartOptions& part : options.parts) {
      if (part.method != Method::kInfer) continue;
      inference::ModelMetadataResponse metadata;
      metadata.add_inputs()->set_datatype("BYTES");
      part.infer = *InferRequests::Create(metadata, "", {});
    }
    port_->SetWorkload(std::make_unique<Workload>(std::move(options), MakeTexts(texts, 1)));
  }

  FakeServer server_;
  std::vector<std::unique_ptr<client::Client>> clients_;
  std::unique_ptr<GrpcPort> port_;
};

TEST_F(GrpcPortTest, AnswersComeWithTheirTimesTokensAndLabels) {
  Connect(1);
  // The fake server says "negative", its label 0.
  Ask("classify:m", {{.text = "abc", .label = 0}}, 2);
  const RunResult result = RunLoad(*port_, {.concurrency = 2, .max_calls = 10});
  EXPECT_EQ(server_.calls, 10);
  EXPECT_EQ(result.all.ok(), 10);
  EXPECT_EQ(result.all.inputs, 20);
  EXPECT_EQ(result.all.input_tokens, 60);
  EXPECT_EQ(result.all.labelled, 20);
  EXPECT_EQ(result.all.right, 20);
  EXPECT_GT(result.all.latency.mean(), absl::ZeroDuration());
}

TEST_F(GrpcPortTest, AWrongLabelIsCounted) {
  Connect(1);
  Ask("classify:m", {{.text = "abc", .label = 1}});
  const RunResult result = RunLoad(*port_, {.concurrency = 1, .max_calls = 3});
  EXPECT_EQ(result.all.labelled, 3);
  EXPECT_EQ(result.all.right, 0);
}

TEST_F(GrpcPortTest, AnInputThatFailsAloneFailsItsCall) {
  Connect(1);
  Ask("embed:m", {{.text = "bad"}});
  const RunResult result = RunLoad(*port_, {.concurrency = 1, .max_calls = 3});
  EXPECT_EQ(result.all.outcomes.at(absl::StatusCode::kInvalidArgument), 3);
  EXPECT_EQ(result.all.messages.at(absl::StatusCode::kInvalidArgument), "it is bad");
}

TEST_F(GrpcPortTest, TextsHaveAFirstTokenAndGaps) {
  Connect(2);
  Ask("generate:m", {{.text = "abcd"}});
  const RunResult result = RunLoad(*port_, {.concurrency = 3, .max_calls = 12});
  EXPECT_EQ(result.all.ok(), 12);
  EXPECT_EQ(result.all.output_tokens, 48);
  EXPECT_EQ(result.all.first_token.count(), 12);
  EXPECT_EQ(result.all.inter_token.count(), 36);
  EXPECT_LE(result.all.first_token.max(), result.all.latency.max());
}

TEST_F(GrpcPortTest, ATextThatIsRefusedIsAnOutcome) {
  Connect(1);
  Ask("generate:m", {{.text = "bad"}});
  const RunResult result = RunLoad(*port_, {.concurrency = 1, .max_calls = 2});
  EXPECT_EQ(result.all.outcomes.at(absl::StatusCode::kInvalidArgument), 2);
}

TEST_F(GrpcPortTest, AMethodThatTheServerDoesNotHaveIsAnOutcome) {
  Connect(1);
  Ask("infer:m", {{.text = "abc"}});
  const RunResult result = RunLoad(*port_, {.concurrency = 1, .max_calls = 2});
  EXPECT_EQ(result.all.outcomes.at(absl::StatusCode::kUnimplemented), 2);
}

TEST_F(GrpcPortTest, AMixReachesAllItsParts) {
  Connect(1);
  Ask("classify:m,embed:m,generate:m", {{.text = "abc"}});
  const RunResult result = RunLoad(*port_, {.concurrency = 2, .max_calls = 60, .parts = 3});
  EXPECT_EQ(result.all.ok(), 60);
  for (const Tally& part : result.parts) EXPECT_GT(part.ok(), 0);
}

TEST_F(GrpcPortTest, AnOpenLoopDoesNotWaitForAnswers) {
  std::promise<void> open;
  std::atomic<int> waiting = 0;
  server_.before = [&, opened = open.get_future().share()](FakeServer::Context&) {
    // The first goes on only when all are there.
    if (++waiting == 8) open.set_value();
    opened.wait();
    return grpc::Status::OK;
  };
  Connect(1);
  Ask("classify:m", {{.text = "abc"}});
  TimesSchedule schedule(std::vector<absl::Duration>(8, absl::ZeroDuration()));
  const RunResult result = RunLoad(*port_, {.schedule = &schedule, .concurrency = 100});
  EXPECT_EQ(result.all.ok(), 8);
}

TEST_F(GrpcPortTest, ErrorsAndDeadlinesAreOutcomes) {
  std::promise<void> open;
  std::atomic<int> calls = 0;
  server_.before = [&, opened = open.get_future().share()](FakeServer::Context&) {
    if (++calls % 2 == 0) return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
    opened.wait();
    return grpc::Status::OK;
  };
  Connect(1, absl::Milliseconds(200));
  Ask("classify:m", {{.text = "abc"}});
  TimesSchedule schedule(std::vector<absl::Duration>(6, absl::ZeroDuration()));
  const RunResult result = RunLoad(*port_, {.schedule = &schedule, .concurrency = 100});
  EXPECT_EQ(result.all.outcomes.at(absl::StatusCode::kResourceExhausted), 3);
  EXPECT_EQ(result.all.outcomes.at(absl::StatusCode::kDeadlineExceeded), 3);
  open.set_value();
}

TEST_F(GrpcPortTest, AStopCancelsWhatIsInFlight) {
  std::promise<void> open;
  std::stop_source stop;
  server_.before = [&, opened = open.get_future().share()](FakeServer::Context&) {
    stop.request_stop();
    opened.wait();
    return grpc::Status::OK;
  };
  Connect(1);
  Ask("classify:m", {{.text = "abc"}});
  const RunResult result = RunLoad(*port_, {.concurrency = 1, .stop = stop.get_token()});
  EXPECT_TRUE(result.interrupted);
  EXPECT_EQ(result.all.outcomes.at(absl::StatusCode::kCancelled), 1);
  open.set_value();
}

}  // namespace
}  // namespace thresher::load
