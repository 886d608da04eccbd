// What an operator sees: metrics, readiness, pressure, signals, configuration.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/e2e/server_process.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using testing::EmbeddedModel;
using testing::Finished;
using ::testing::HasSubstr;
using testing::HttpGet;
using testing::Process;
using testing::RunProcess;
using testing::ServerProcess;

v1::ClassifyRequest Ask(int inputs = 1) {
  v1::ClassifyRequest request;
  request.mutable_model()->set_name("sst2-mini");
  for (int i = 0; i < inputs; ++i) request.add_inputs()->set_text("a gripping film");
  return request;
}

absl::StatusCode Code(const absl::StatusOr<v1::ClassifyResponse>& response) {
  return response.status().code();
}

std::string RequestsTotal(const std::string& outcome) {
  return "thresher_requests_total{method=\"Classify\",model=\"sst2-mini\",outcome=\"" + outcome +
         "\"}";
}

/// A server whose scheduler waits for more work unless a deadline is near: calls without one stay
/// in the queue until a call with one comes, or the server stops.
std::vector<std::string> Holding(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--model", EmbeddedModel(), "--max-batch-delay", "10m"});
  return arguments;
}

/// A server that runs for seconds on Work(), and the arguments that make it so slow.
std::vector<std::string> Slow(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--model", EmbeddedModel(), "--device", "reference"});
  return arguments;
}
v1::ClassifyRequest Work() {
  std::string text;
  for (int i = 0; i < 126; ++i) text += "film ";
  v1::ClassifyRequest request = Ask(16);
  for (v1::Input& input : *request.mutable_inputs()) input.set_text(text);
  return request;
}

bool Queued(const ServerProcess& server, int sequences) {
  return ServerProcess::Eventually(
      [&] { return server.Metric("thresher_queue_depth") == sequences; });
}

TEST(MetricsTest, AreWhatPrometheusWantsAndCountEveryInput) {
  ServerProcess server;
  const auto client = server.Connect();
  ASSERT_TRUE(client->Call(Ask(3)).ok());
  v1::ClassifyRequest bad = Ask(2);
  bad.mutable_inputs(1)->clear_text();
  ASSERT_TRUE(client->Call(bad).ok());
  EXPECT_EQ(server.Metric(RequestsTotal("ok")), 4);
  EXPECT_EQ(server.Metric(RequestsTotal("invalid_argument")), 1);
  EXPECT_EQ(server.Metric("thresher_queue_depth"), 0);

  const auto metrics = HttpGet(server.http(), "/metrics");
  EXPECT_EQ(metrics.status, 200);
  for (const char* name :
       {"thresher_request_queue_seconds_bucket", "thresher_request_tokenize_seconds_bucket",
        "thresher_request_compute_seconds_bucket", "thresher_request_total_seconds_bucket",
        "thresher_batch_sequences_bucket", "thresher_batch_tokens_bucket",
        "thresher_keep_ratio_bucket", "thresher_operations_done_total",
        "thresher_operations_skipped_total", "thresher_kv_saved_bytes_total",
        "thresher_refetched_rows_total", "thresher_predicted_rows_total",
        "thresher_predicted_scores_total", "thresher_attention_entropy_nats_bucket",
        "thresher_attention_sink_share_bucket", "thresher_queue_oldest_age_seconds",
        "thresher_threads", "thresher_build_info"}) {
    EXPECT_THAT(metrics.body, HasSubstr(name));
  }
  try {
    const Finished check = RunProcess({"promtool", "check", "metrics"}, {.input = metrics.body});
    EXPECT_EQ(check.code, 0);
    EXPECT_EQ(check.output + check.error, "");
  } catch (const std::runtime_error&) {
    GTEST_SKIP() << "skipped: needs promtool (Debian package prometheus)";
  }
}

TEST(HttpTest, HealthReadinessAndTheRest) {
  ServerProcess server;
  EXPECT_EQ(HttpGet(server.http(), "/healthz").status, 200);
  const auto ready = HttpGet(server.http(), "/readyz");
  EXPECT_EQ(ready.status, 200);
  EXPECT_EQ(json::parse(ready.body)["ready"], true);
  EXPECT_EQ(HttpGet(server.http(), "/no-such-page").status, 404);
}

TEST(PressureTest, FullQueueRefusesAtOnceAndDropsWhatWasCancelled) {
  ServerProcess server(Holding({"--max-queue", "4"}));
  const auto client = server.Connect();
  const auto computed = [&] {
    return server.Metric("thresher_batch_sequences_sum{model=\"sst2-mini\"}");
  };
  // The server hears of a cancellation a little after the caller has its answer, and the next call
  // may come first: then the cancelled ones run too, and it is tried again.
  double ran_alone = 0;
  for (int attempt = 0; attempt < 100 && ran_alone != 1; ++attempt) {
    std::stop_source stop;
    auto held = client->CallAsync(Ask(3), {.stop = stop.get_token()});
    ASSERT_TRUE(Queued(server, 3));
    const double refused = server.Metric(RequestsTotal("resource_exhausted"));
    EXPECT_EQ(Code(client->Call(Ask(2))), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(server.Metric(RequestsTotal("resource_exhausted")), refused + 2);

    const double before = computed();
    const double answered = server.Metric(RequestsTotal("ok"));
    stop.request_stop();
    EXPECT_EQ(Code(held.get()), absl::StatusCode::kCancelled);
    // The one that is left makes the batch run.
    EXPECT_TRUE(client->Call(Ask(1), {.deadline = absl::Minutes(1)}).ok());
    EXPECT_TRUE(
        ServerProcess::Eventually([&] { return server.Metric(RequestsTotal("ok")) > answered; }));
    ran_alone = computed() - before;
    EXPECT_TRUE(Queued(server, 0));
  }
  EXPECT_EQ(ran_alone, 1);
  EXPECT_TRUE(
      ServerProcess::Eventually([&] { return server.Metric(RequestsTotal("cancelled")) >= 3; }));
}

TEST(PressureTest, DeadlineThatPassesInTheQueueCostsNoCompute) {
  ServerProcess server(Slow({}));
  const auto client = server.Connect();
  auto work = client->CallAsync(Work());
  ASSERT_TRUE(
      ServerProcess::Eventually([&] { return server.Metric("thresher_running_sequences") == 16; }));
  EXPECT_EQ(Code(client->Call(Ask(), {.deadline = absl::Milliseconds(100)})),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(work.get().ok());
  // The server may hear first of the deadline or of the caller's leaving.
  EXPECT_TRUE(ServerProcess::Eventually([&] {
    return server.Metric(RequestsTotal("deadline_exceeded")) +
               server.Metric(RequestsTotal("cancelled")) ==
           1;
  }));
  EXPECT_EQ(server.Metric("thresher_batch_sequences_sum{model=\"sst2-mini\"}"), 16);
}

TEST(PressureTest, OversizedMessageIsRefusedAndLeavesOthersAlone) {
  ServerProcess server({"--model", EmbeddedModel(), "--max-message-bytes", "65536"});
  const auto client = server.Connect();
  v1::ClassifyRequest large = Ask();
  large.mutable_inputs(0)->set_text(std::string(100'000, 'x'));
  EXPECT_EQ(Code(client->Call(large)), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(client->Call(Ask()).ok());
}

TEST(StopTest, IdleServerEndsAtOnceWithSuccess) {
  ServerProcess server;
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 0) << server.process().error();
}

TEST(StopTest, AcceptedWorkFinishesAndNewWorkIsRefused) {
  ServerProcess server(Slow({"--drain-timeout", "100s"}));
  const auto client = server.Connect();
  auto work = client->CallAsync(Work());
  ASSERT_TRUE(
      ServerProcess::Eventually([&] { return server.Metric("thresher_running_sequences") == 16; }));
  server.process().Signal(SIGTERM);
  ASSERT_TRUE(server.process().WaitForError("draining"));
  EXPECT_EQ(Code(client->Call(Ask())), absl::StatusCode::kUnavailable);
  EXPECT_EQ(HttpGet(server.http(), "/readyz").status, 503);
  EXPECT_EQ(client->Call(grpc::health::v1::HealthCheckRequest())->status(),
            grpc::health::v1::HealthCheckResponse::NOT_SERVING);
  const auto answered = work.get();
  ASSERT_TRUE(answered.ok()) << answered.status();
  EXPECT_EQ(answered->results_size(), 16);
  EXPECT_EQ(server.process().Wait(), 0) << server.process().error();
}

TEST(StopTest, WorkThatWaitsForCompanyIsRunAtOnce) {
  ServerProcess server(Holding({"--drain-timeout", "100s"}));
  const auto client = server.Connect();
  auto held = client->CallAsync(Ask(2));
  ASSERT_TRUE(Queued(server, 2));
  server.process().Signal(SIGTERM);
  const auto answered = held.get();
  EXPECT_TRUE(answered.ok()) << answered.status();
  EXPECT_EQ(server.process().Wait(), 0) << server.process().error();
}

TEST(StopTest, DrainTimeoutEndsWhatDoesNotFinish) {
  ServerProcess server(Slow({"--drain-timeout", "50ms"}));
  const auto client = server.Connect();
  auto work = client->CallAsync(Work());
  ASSERT_TRUE(
      ServerProcess::Eventually([&] { return server.Metric("thresher_running_sequences") == 16; }));
  server.process().Signal(SIGTERM);
  EXPECT_FALSE(work.get().ok());
  EXPECT_EQ(server.process().Wait(), 1);
}

TEST(StopTest, LameDuckIsNotReadyButServes) {
  ServerProcess server({"--model", EmbeddedModel(), "--lame-duck", "10m"});
  const auto client = server.Connect();
  server.process().Signal(SIGTERM);
  EXPECT_TRUE(
      ServerProcess::Eventually([&] { return HttpGet(server.http(), "/readyz").status == 503; }));
  EXPECT_TRUE(ServerProcess::Eventually([&] {
    return client->Call(grpc::health::v1::HealthCheckRequest())->status() ==
           grpc::health::v1::HealthCheckResponse::NOT_SERVING;
  }));
  EXPECT_EQ(HttpGet(server.http(), "/healthz").status, 200);
  EXPECT_TRUE(client->Call(Ask()).ok());
  // A second signal ends it now.
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 128 + SIGTERM);
}

TEST(StopTest, LameDuckEnds) {
  ServerProcess server({"--model", EmbeddedModel(), "--lame-duck", "100ms"});
  server.process().Signal(SIGINT);
  EXPECT_EQ(server.process().Wait(), 0) << server.process().error();
}

TEST(ModelsTest, BadModelLeavesTheOthersServing) {
  testing::TempDir directory;
  std::filesystem::copy(testing::SourceDir() / "models/sst2-mini", directory.path() / "bad");
  // A header of absurd length.
  std::ofstream(directory.path() / "bad/model.safetensors", std::ios::binary | std::ios::trunc)
      << "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F{}";
  ServerProcess server(
      {"--model", EmbeddedModel(), "--model", "bad=" + (directory.path() / "bad").string()});
  EXPECT_EQ(server.models(), 1);
  EXPECT_TRUE(server.Connect()->Call(Ask()).ok());
  EXPECT_EQ(HttpGet(server.http(), "/readyz").status, 503);
  const Finished models = server.Cli({"models", "--json"});
  EXPECT_EQ(models.code, 0);
  EXPECT_THAT(models.output, AllOf(HasSubstr("UNAVAILABLE"), HasSubstr("model.safetensors")));
  const Finished asked = server.Cli({"classify", "x", "--model", "bad"});
  EXPECT_EQ(asked.code, 1);
  EXPECT_THAT(asked.error, HasSubstr("UNAVAILABLE"));

  // Mended and loaded again, without a restart.
  std::filesystem::copy(testing::SourceDir() / "models/sst2-mini/model.safetensors",
                        directory.path() / "bad/model.safetensors",
                        std::filesystem::copy_options::overwrite_existing);
  inference::RepositoryModelLoadRequest load;
  load.set_model_name("bad");
  const auto loaded = server.Connect()->Call(load);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(server.Cli({"classify", "x", "--model", "bad"}).code, 0);
  EXPECT_EQ(HttpGet(server.http(), "/readyz").status, 200);
}

TEST(ModelsTest, NothingButBadModelsIsAFailure) {
  const Finished run = RunProcess({THRESHERD_BINARY, "--listen", "127.0.0.1:0", "--http",
                                   "127.0.0.1:0", "--model", "x=/nowhere/at/all"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, HasSubstr("/nowhere/at/all"));
}

TEST(ModelsTest, LoadingAndUnloadingFailsNoRequest) {
  const std::string path = (testing::SourceDir() / "models/sst2-mini").string();
  ServerProcess server({"--model", EmbeddedModel(), "--model", "other=" + path});
  EXPECT_EQ(server.models(), 2);
  const auto client = server.Connect();
  constexpr int kCallers = 3;
  // Hammers until the loads below are done, and a bounded number of times at most.
  std::atomic<bool> loading = true;
  std::atomic<int> answered = 0;
  std::vector<std::future<std::string>> callers;
  for (int i = 0; i < kCallers; ++i) {
    callers.push_back(std::async(std::launch::async, [&]() -> std::string {
      for (int n = 0; n < 20'000 && loading; ++n) {
        const auto response = client->Call(Ask(2));
        if (!response.ok()) return response.status().ToString();
        for (const auto& result : response->results()) {
          if (result.label() != "positive") return result.ShortDebugString();
        }
        ++answered;
      }
      return "";
    }));
  }
  const auto operate = [&](auto request, const std::string& name) {
    const int before = answered;
    request.set_model_name(name);
    const auto response = client->Call(request);
    EXPECT_TRUE(response.ok()) << response.status();
    // Each is followed by requests that met what it left behind.
    EXPECT_TRUE(
        ServerProcess::Eventually([&] { return answered > before + kCallers || !loading; }));
  };
  for (int i = 0; i < 3; ++i) {
    operate(inference::RepositoryModelLoadRequest(), "sst2-mini");
    operate(inference::RepositoryModelUnloadRequest(), "other");
    EXPECT_EQ(server.Cli({"classify", "x", "--model", "other"}).code, 1);
    operate(inference::RepositoryModelLoadRequest(), "other");
    EXPECT_EQ(server.Cli({"classify", "x", "--model", "other"}).code, 0);
  }
  loading = false;
  for (auto& caller : callers) EXPECT_EQ(caller.get(), "");
  EXPECT_GT(answered, 0);
}

TEST(ConfigurationTest, FlagBeatsEnvironmentBeatsFile) {
  testing::TempDir directory;
  const std::string config = directory.path() / "thresherd.textproto";
  std::ofstream(config) << "max_inputs: 3\nmodels { name: 'sst2-mini' path: '"
                        << (testing::SourceDir() / "models/sst2-mini").string() << "' }\n";
  const auto most_inputs = [&](std::vector<std::string> flags, std::vector<std::string> variables) {
    flags.insert(flags.end(), {"--config", config});
    ServerProcess server(flags, {.environment = std::move(variables)});
    const auto client = server.Connect();
    for (int inputs = 1; inputs < 10; ++inputs) {
      if (!client->Call(Ask(inputs)).ok()) return inputs - 1;
    }
    return 10;
  };
  EXPECT_EQ(most_inputs({}, {}), 3);
  EXPECT_EQ(most_inputs({}, {"THRESHER_MAX_INPUTS=2"}), 2);
  EXPECT_EQ(most_inputs({"--max-inputs", "1"}, {"THRESHER_MAX_INPUTS=2"}), 1);
}

TEST(ConfigurationTest, WrongUsageIsTwoAndSaysWhat) {
  const auto run = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), THRESHERD_BINARY);
    return RunProcess(arguments);
  };
  const Finished unknown = run({"--no-such-flag"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.error, HasSubstr("--no-such-flag"));
  EXPECT_EQ(run({"--model", EmbeddedModel(), "--threads", "many"}).code, 2);
  EXPECT_EQ(run({"--model", EmbeddedModel(), "--max-batch-delay", "7"}).code, 2);
  EXPECT_EQ(run({"--model", "="}).code, 2);
  EXPECT_EQ(run({"--config", "/nowhere/at/all"}).code, 2);
  EXPECT_EQ(run({}).code, 2);
  const Finished help = run({"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_THAT(help.output, HasSubstr("--max-queue"));
  EXPECT_THAT(run({"--version"}).output, HasSubstr("gRPC"));
}

TEST(ConfigurationTest, TakenPortIsAFailure) {
  ServerProcess server;
  const Finished run = RunProcess({THRESHERD_BINARY, "--model", EmbeddedModel(), "--listen",
                                   server.grpc(), "--http", "127.0.0.1:0"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, HasSubstr(server.grpc()));
}

}  // namespace
}  // namespace thresher
