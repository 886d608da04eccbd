// Client::Generate, and the `thresher generate` process, against a server in this one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "client/client.h"
#include "tests/client/fake_server.h"
#include "tests/e2e/process.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using testing::FakeServer;
using testing::Finished;
using ::testing::HasSubstr;
using testing::Process;
using testing::RunProcess;

class GenerateTest : public ::testing::Test {
 protected:
  GenerateTest() {
    server_.on_generate = [this](const v1::GenerateRequest& request) {
      const std::lock_guard lock(mutex_);
      request_ = request;
    };
  }
  std::unique_ptr<client::Client> Connect() {
    return *client::Client::Connect({.server = server_.address()});
  }
  static v1::GenerateRequest Ask(const std::string& prompt) {
    v1::GenerateRequest request;
    request.mutable_prompt()->set_text(prompt);
    return request;
  }
  Finished Run(std::vector<std::string> arguments, Process::Options options = {}) {
    arguments.insert(arguments.begin(), {THRESHER_BINARY, "generate"});
    arguments.insert(arguments.end(), {"--server", server_.address()});
    options.environment.push_back("LC_ALL=C");
    return RunProcess(arguments, options);
  }
  v1::GenerateRequest asked() {
    const std::lock_guard lock(mutex_);
    return request_;
  }

  std::mutex mutex_;
  v1::GenerateRequest request_;
  testing::TempDir directory_;
  FakeServer server_;
};

TEST_F(GenerateTest, MessagesComeInOrderAndTheEndLast) {
  std::string text;
  bool ended = false;
  const absl::Status status = Connect()->Generate(Ask("abc"), [&](const auto& message) {
    EXPECT_FALSE(ended);
    for (const auto& token : message.tokens()) text += token.text();
    ended = message.has_end();
    return true;
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(text, "abc");
  EXPECT_TRUE(ended);
}

TEST_F(GenerateTest, ATakerThatHasEnoughEndsTheCall) {
  int messages = 0;
  const absl::Status status = Connect()->Generate(Ask(std::string(100'000, 'x')), [&](const auto&) {
    ++messages;
    return false;
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(messages, 1);
}

TEST_F(GenerateTest, ARefusalIsTheCallsStatus) {
  const absl::Status status = Connect()->Generate(Ask("bad"), [](const auto&) { return true; });
  EXPECT_EQ(status, absl::InvalidArgumentError("it is bad"));
}

TEST_F(GenerateTest, AStopEndsTheCall) {
  std::stop_source stop;
  const absl::Status status = Connect()->Generate(Ask(std::string(1'000'000, 'x')),
                                                  [&](const auto&) {
                                                    stop.request_stop();
                                                    return true;
                                                  },
                                                  {.stop = stop.get_token()});
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
}

TEST_F(GenerateTest, TextGoesToStandardOutputAndTheRestToTheOther) {
  const Finished run = Run({"a\nbc"});
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_EQ(run.output, "a\nbc!\n");
  EXPECT_THAT(run.error, HasSubstr("3 tokens of prompt, 4 generated (stop); first token 250.0 ms"));
  EXPECT_THAT(run.error, HasSubstr("seed 9"));
  EXPECT_EQ(Run({"abc", "--quiet"}).error, "");
}

TEST_F(GenerateTest, JsonIsAnObjectForEachTokenAndALastOne) {
  const Finished run = Run({"ab", "--json"});
  EXPECT_EQ(run.code, 0) << run.error;
  std::vector<json> lines;
  std::istringstream stream(run.output);
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0], json::parse(R"({"token": 97, "text": "a", "logprob": -0.5})"));
  EXPECT_EQ(lines[2]["text"], "ab!");
  EXPECT_EQ(lines[2]["finish_reason"], "stop");
  EXPECT_EQ(lines[2]["usage"]["generated_tokens"], 2);
  EXPECT_EQ(lines[2]["timings"]["total"], 0.5);
  EXPECT_EQ(lines[2]["report"]["policy"], "dense");
  EXPECT_EQ(lines[2]["seed"], 9);
}

TEST_F(GenerateTest, EveryFlagIsSent) {
  const Finished run = Run({"p",
                            "--max-tokens",
                            "7",
                            "--temperature",
                            "0.5",
                            "--top-k",
                            "3",
                            "--top-p",
                            "0.25",
                            "--min-p",
                            "0.125",
                            "--seed",
                            "18446744073709551615",
                            "--stop",
                            "x y",
                            "--stop",
                            "z",
                            "--ignore-eos",
                            "--logprobs",
                            "--top-logprobs",
                            "2",
                            "--echo",
                            "--truncate",
                            "--sparsity",
                            "h2o",
                            "--explain",
                            "--priority",
                            "4",
                            "--repetition-penalty",
                            "1.5",
                            "--model-version",
                            "2"});
  EXPECT_EQ(run.code, 0) << run.error;
  const v1::GenerateRequest request = asked();
  EXPECT_EQ(request.model().name(), "m");
  EXPECT_EQ(request.model().version(), "2");
  EXPECT_EQ(request.prompt().text(), "p");
  EXPECT_EQ(request.max_tokens(), 7);
  const v1::SamplingOptions& sampling = request.sampling();
  EXPECT_EQ(sampling.temperature(), 0.5);
  EXPECT_EQ(sampling.top_k(), 3);
  EXPECT_EQ(sampling.top_p(), 0.25);
  EXPECT_EQ(sampling.min_p(), 0.125);
  EXPECT_EQ(sampling.repetition_penalty(), 1.5);
  EXPECT_EQ(sampling.seed(), 18446744073709551615u);
  EXPECT_THAT(request.stop(), ::testing::ElementsAre("x y", "z"));
  EXPECT_TRUE(request.ignore_eos() && request.logprobs() && request.echo());
  EXPECT_EQ(request.top_logprobs(), 2);
  EXPECT_TRUE(request.options().truncate() && request.options().sparsity().explain());
  EXPECT_EQ(request.options().priority(), 4);
  EXPECT_EQ(request.options().sparsity().policy(), "h2o");
}

TEST_F(GenerateTest, WhatIsNotGivenIsNotSent) {
  EXPECT_EQ(Run({"p"}).code, 0);
  const v1::GenerateRequest request = asked();
  EXPECT_FALSE(request.has_max_tokens() || request.sampling().has_seed() ||
               request.sampling().has_top_p() || request.sampling().has_repetition_penalty());
}

TEST_F(GenerateTest, ThePromptComesFromTheArgumentAFileOrStandardInput) {
  const std::string path = directory_.path() / "prompt";
  std::ofstream(path) << "of a\nfile\n";
  EXPECT_EQ(Run({"--file", path}).code, 0);
  EXPECT_EQ(asked().prompt().text(), "of a\nfile");
  EXPECT_EQ(Run({}, {.input = "typed\n"}).code, 0);
  EXPECT_EQ(asked().prompt().text(), "typed");
  EXPECT_EQ(Run({"-"}, {.input = "dash"}).code, 0);
  EXPECT_EQ(asked().prompt().text(), "dash");
  EXPECT_EQ(Run({""}, {.input = "not this"}).code, 0);
  EXPECT_EQ(asked().prompt().text(), "");
  EXPECT_EQ(Run({"x", "--file", path}).code, 2);
  EXPECT_EQ(Run({"--file", directory_.path() / "absent"}).code, 2);
  EXPECT_EQ(Run({"b\xFF"}).code, 2);
}

TEST_F(GenerateTest, AFailureIsToldAndIsTheExitCode) {
  const Finished run = Run({"bad", "--json"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, HasSubstr("thresher: INVALID_ARGUMENT: it is bad\n"));
  EXPECT_EQ(json::parse(run.output)["error"]["message"], "it is bad");
  EXPECT_EQ(Run({"p", "--seed", "-1"}).code, 2);
  EXPECT_EQ(Run({"p", "q"}).code, 2);
}

}  // namespace
}  // namespace thresher
