// Texts from a real server on a real, small decoder.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/e2e/server_process.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using testing::Finished;
using ::testing::HasSubstr;
using testing::ServerProcess;
using testing::SharedPath;

const char* const kModel = "models/stories260k";

std::vector<std::string> Serve(const std::string& device) {
  return {"--model", "stories=" + SharedPath(kModel).string(), "--device", device, "--precision",
          "f32"};
}

std::string GoldenText() {
  return json::parse(std::ifstream(SharedPath(kModel) / "generation_golden.json"))["text"];
}

std::vector<json> Lines(const std::string& output) {
  std::vector<json> lines;
  std::istringstream stream(output);
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  return lines;
}

/// A text without end: under this policy its cache is bounded.
v1::GenerateRequest Endless(int max_tokens) {
  v1::GenerateRequest request;
  request.mutable_model()->set_name("stories");
  request.set_max_tokens(max_tokens);
  request.set_ignore_eos(true);
  request.mutable_options()->mutable_sparsity()->set_policy("sinks:first=4,recent=32");
  return request;
}

class GoldenTextTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTextTest, GreedyTextEqualsTheReferenceProgramsToTheByte) {
  THRESHER_REQUIRE_SHARED(SharedPath(kModel));
  const ServerProcess server(Serve(GetParam()));
  const Finished run =
      server.Cli({"generate", "--model", "stories", "--max-tokens", "200", "--json", ""});
  ASSERT_EQ(run.code, 0) << run.error;
  const auto lines = Lines(run.output);
  ASSERT_EQ(lines.size(), 201u);
  std::string text;
  for (size_t i = 0; i < 200; ++i) {
    EXPECT_TRUE(lines[i]["token"].is_number());
    text += lines[i]["text"].get<std::string>();
  }
  const json& last = lines.back();
  EXPECT_EQ(last["text"], GoldenText());
  EXPECT_EQ(text + last["text"].get<std::string>().substr(text.size()), GoldenText());
  EXPECT_EQ(last["finish_reason"], "length");
  EXPECT_EQ(last["usage"]["prompt_tokens"], 1);
  EXPECT_EQ(last["usage"]["generated_tokens"], 200);
  EXPECT_GT(last["timings"]["first_token"].get<double>(), 0);
  EXPECT_EQ(last["report"]["policy"], "dense");
  // The same as a stream of text, from standard input.
  const Finished plain = server.Cli({"generate", "--max-tokens", "200"}, {.input = ""});
  EXPECT_EQ(plain.output, GoldenText() + "\n");
  EXPECT_THAT(plain.error, HasSubstr("200 generated (length)"));
}

INSTANTIATE_TEST_SUITE_P(Devices, GoldenTextTest, ::testing::Values("cpu", "reference"));

class GenerationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    THRESHER_REQUIRE_SHARED(SharedPath(kModel));
    server_ = std::make_unique<ServerProcess>(Serve("cpu"));
  }
  bool NothingIsHeld() const {
    return ServerProcess::Eventually([&] {
      return server_->Metric(R"(thresher_running_texts{model="stories",version="1"})") == 0 &&
             server_->Metric("thresher_kv_cache_used_bytes") == 0 &&
             server_->Metric("thresher_kv_cache_reserved_bytes") == 0;
    });
  }
  std::unique_ptr<ServerProcess> server_;
};

TEST_F(GenerationTest, ASlowReaderHoldsBackOnlyItselfAndLeavesNothingWhenItGoes) {
  const auto client = server_->Connect();
  std::promise<void> read_on;
  const auto wait = read_on.get_future().share();
  v1::GenerateRequest endless = Endless(100'000);
  endless.set_logprobs(true);  // So that what the transport takes in hand is full before its end.
  endless.set_top_logprobs(20);
  auto slow = std::async(std::launch::async, [&] {
    return client->Generate(endless, [&](const v1::GenerateResponse&) {
      wait.wait();
      return false;
    });
  });
  // The slow text stands still once a step of another's is the only one that runs.
  v1::GenerateRequest one = Endless(1);
  one.mutable_options()->clear_sparsity();
  const std::string steps = R"(thresher_generation_step_texts_count{model="stories"})";
  EXPECT_TRUE(ServerProcess::Eventually([&] {
    const double before = server_->Metric(steps);
    if (!client->Generate(one, [](const v1::GenerateResponse&) { return true; }).ok()) return false;
    return before > 1000 && server_->Metric(steps) == before + 1;
  }));
  EXPECT_EQ(server_->Metric(R"(thresher_running_texts{model="stories",version="1"})"), 1);
  const Finished other = server_->Cli({"generate", "--max-tokens", "200", "--json", ""});
  EXPECT_EQ(Lines(other.output).back()["text"], GoldenText());
  EXPECT_GT(server_->Metric("thresher_kv_cache_used_bytes"), 0);
  read_on.set_value();
  EXPECT_EQ(slow.get().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(NothingIsHeld());
}

TEST_F(GenerationTest, AnInterruptedCommandEndsItsText) {
  testing::Process command({THRESHER_BINARY, "generate", "--server", server_->grpc(),
                            "--max-tokens", "1000000", "--ignore-eos", "--sparsity",
                            "sinks:first=4,recent=32", ""});
  ASSERT_TRUE(command.WaitForOutput("Once upon"));
  command.Signal(SIGINT);
  EXPECT_EQ(command.Wait(), 130);
  EXPECT_TRUE(NothingIsHeld());
}

TEST_F(GenerationTest, AServerThatStopsFinishesItsTexts) {
  const auto client = server_->Connect();
  int tokens = 0;
  bool ended = false;
  const absl::Status status =
      client->Generate(Endless(3000), [&](const v1::GenerateResponse& message) {
        if (tokens == 0) server_->process().Signal(SIGTERM);
        tokens += message.tokens_size();
        ended = message.has_end();
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(tokens, 3000);
  EXPECT_TRUE(ended);
  EXPECT_EQ(server_->process().Wait(), 0);
}

TEST_F(GenerationTest, ScoresTellThePerplexityOfAText) {
  v1::ScoreRequest request;
  request.mutable_model()->set_name("stories");
  request.add_inputs()->set_text("Once upon a time, there was a little girl named Lily.");
  request.add_inputs()->set_text("Lily a upon was there named girl time Once little a, .");
  const auto response = server_->Connect()->Call(request);
  ASSERT_TRUE(response.ok()) << response.status();
  const auto mean = [&](int i) {
    return response->results(i).logprob() / response->results(i).scored_tokens();
  };
  EXPECT_GT(mean(0), -0.5);
  EXPECT_LT(mean(1), -3);
}

}  // namespace
}  // namespace thresher
