// The HTTP port as curl sees it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/e2e/server_process.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using testing::EmbeddedModel;
using testing::Finished;
using ::testing::HasSubstr;
using testing::Process;
using testing::RunProcess;
using testing::ServerProcess;
using testing::SourceDir;

class HttpE2eTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = new ServerProcess({"--model", EmbeddedModel(), "--model",
                                 "gpt=" + (SourceDir() / "tests/golden/decoder-gpt2").string()});
  }
  static void TearDownTestSuite() { delete server_; }

  void SetUp() override {
    if (RunProcess({"sh", "-c", "command -v curl"}).code != 0) GTEST_SKIP() << "needs curl";
  }

  static std::string Url(const std::string& path) { return "http://" + server_->http() + path; }
  static Finished Curl(std::vector<std::string> arguments, const std::string& path) {
    arguments.insert(arguments.begin(), {"curl", "-sS"});
    arguments.push_back(Url(path));
    return RunProcess(arguments);
  }
  static json Post(const std::string& path, const std::string& body) {
    const Finished curl = Curl({"--json", body}, path);
    EXPECT_EQ(curl.code, 0) << curl.error;
    return json::parse(curl.output);
  }

  static inline ServerProcess* server_ = nullptr;
};

TEST_F(HttpE2eTest, TheSameSentenceBySeveralApis) {
  const json own =
      Post("/thresher.v1.Thresher/Classify",
           R"({"model":{"name":"sst2-mini"},"inputs":[{"text":"a gripping, moving film"}],
          "options":{"sparsity":{"policy":"spatten:final=0.4","explain":true}}})");
  EXPECT_EQ(own["results"][0]["label"], "positive");
  EXPECT_EQ(own["results"][0]["info"]["report"]["token_layers"].size(),
            own["results"][0]["info"]["pieces"].size());
  const json open = Post("/v2/models/sst2-mini/infer",
                         R"({"inputs":[{"name":"text","datatype":"BYTES","shape":[1],
                             "data":["a gripping, moving film"]}],
                             "parameters":{"sparsity":"spatten:final=0.4"}})");
  EXPECT_EQ(open["outputs"][2]["data"][0], "positive");
  // Writers differ in digits, not in the float.
  EXPECT_EQ(open["outputs"][1]["data"].get<std::vector<float>>(),
            own["results"][0]["scores"].get<std::vector<float>>());
  const json embeddings =
      Post("/v1/embeddings", R"({"model":"sst2-mini","input":["a gripping, moving film"]})");
  EXPECT_GT(embeddings["data"][0]["embedding"].size(), 8);
  EXPECT_EQ(server_->Metric(
                R"(thresher_requests_total{method="Classify",model="sst2-mini",outcome="ok"})"),
            1);
}

TEST_F(HttpE2eTest, AStreamOfEvents) {
  const Finished curl = Curl({"-N", "--json",
                              R"({"model":"gpt","prompt":"ab","max_tokens":5,"temperature":0,
                                  "ignore_eos":true,"stream":true})"},
                             "/v1/completions");
  EXPECT_EQ(curl.code, 0) << curl.error;
  EXPECT_THAT(curl.output, ::testing::StartsWith("data: {\"id\":\"cmpl-"));
  EXPECT_THAT(curl.output, ::testing::EndsWith("data: [DONE]\n\n"));
}

TEST_F(HttpE2eTest, RefusalsHaveTheirCodes) {
  const auto code = [](std::vector<std::string> arguments, const std::string& path) {
    arguments.insert(arguments.end(), {"-o", "/dev/null", "-w", "%{http_code}"});
    return Curl(std::move(arguments), path).output;
  };
  EXPECT_EQ(code({}, "/v2/health/ready"), "200");
  EXPECT_EQ(code({}, "/v2/models/no"), "404");
  EXPECT_EQ(code({"--json", "{"}, "/v2/models/sst2-mini/infer"), "400");
  EXPECT_EQ(code({"--json", R"({"model":"sst2-mini","prompt":"a"})"}, "/v1/completions"), "501");
  EXPECT_EQ(code({"--json", R"({"model":"gpt","prompt":"a"})", "-H", "Grpc-Timeout: 0S"},
                 "/v1/completions"),
            "504");
  EXPECT_EQ(code({}, "/v1/completions"), "405");
}

TEST_F(HttpE2eTest, ALongBodyOfManyTexts) {
  testing::TempDir dir;
  json request = {{"model", {{"name", "sst2-mini"}}}};
  for (int i = 0; i < 256; ++i) {
    request["inputs"].push_back({{"text", std::string(4000, 'a' + i % 26)}});
  }
  const std::string path = dir.path() / "body";
  std::ofstream(path) << request.dump();
  const Finished curl = Curl({"--json", "@" + path}, "/thresher.v1.Thresher/Tokenize");
  EXPECT_EQ(curl.code, 0) << curl.error;
  EXPECT_EQ(json::parse(curl.output)["results"].size(), 256);
}

TEST_F(HttpE2eTest, WhatWasTakenIsAnsweredBeforeTheServerStops) {
  ServerProcess server;
  const std::string url = "http://" + server.http() + "/thresher.v1.Thresher/Classify";
  json request = {{"model", {{"name", "sst2-mini"}}}};
  for (int i = 0; i < 200; ++i)
    request["inputs"].push_back({{"text", "a film " + std::to_string(i)}});
  Process curl({"curl", "-sS", "--json", request.dump(), url});
  ASSERT_TRUE(ServerProcess::Eventually([&] {
    return server.Metric("thresher_queue_depth") + server.Metric("thresher_running_sequences") +
               server.Metric("thresher_batch_sequences_count{model=\"sst2-mini\"}") >
           0;
  }));
  server.process().Signal(SIGTERM);
  EXPECT_EQ(curl.Wait(), 0) << curl.error();
  EXPECT_EQ(json::parse(curl.output())["results"].size(), 200);
  EXPECT_EQ(server.process().Wait(), 0) << server.process().error();
}

}  // namespace
}  // namespace thresher
