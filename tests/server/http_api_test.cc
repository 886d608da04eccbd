// The JSON front over real HTTP: thresher.v1, Open Inference and OpenAI on an encoder, a classifier
// and a tiny decoder.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/console_routes.h"
#include "server/grpc_server.h"
#include "server/http_call.h"
#include "server/http_server.h"
#include "server/open_inference_routes.h"
#include "server/openai_routes.h"
#include "server/thresher_routes.h"
#include "tests/server/fake_model.h"
#include "tests/server/raw_http_client.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using testing::AskHttp;
using testing::GetText;
using ::testing::HasSubstr;
using testing::HttpAnswer;
using ::testing::IsSupersetOf;
using testing::ParseAnswer;
using testing::PostText;
using testing::RawClient;
using testing::SourceDir;
using ::testing::StartsWith;

class HttpApiTest : public ::testing::Test {
 protected:
  // The models are loaded once for all tests; decoders want a scheduler that outlives them.
  static void SetUpTestSuite() {
    scheduler_ = new Scheduler(SchedulerOptions(), nullptr);
    RepositoryOptions options;
    options.device = "reference";
    options.scheduler = scheduler_;
    options.kv_pool = std::make_shared<KvPool>(size_t{1} << 28);
    options.warm_up = [](LoadedModel&) { return absl::OkStatus(); };
    std::vector<v1::ModelConfig> models;
    for (const auto& [name, path] :
         {std::pair("sst2-mini", "models/sst2-mini"), std::pair("plain", "tests/golden/bert-plain"),
          std::pair("gpt", "tests/golden/decoder-gpt2")}) {
      models.emplace_back().set_name(name);
      models.back().set_path((SourceDir() / path).string());
    }
    repository_ = new ModelRepository(options, models);
    const absl::Status loaded = repository_->LoadAll();
    ASSERT_TRUE(loaded.ok()) << loaded;
  }
  static void TearDownTestSuite() {
    delete repository_;
    delete scheduler_;
  }

  void SetUp() override {
    GrpcServerOptions options;
    options.listen = "127.0.0.1:0";
    auto grpc = GrpcServer::Start(options, repository_, scheduler_, &metrics_);
    ASSERT_TRUE(grpc.ok()) << grpc.status();
    grpc_ = *std::move(grpc);
    const Handlers handlers = {grpc_->inference(), grpc_->generation(), repository_};
    std::vector<HttpRoute> routes = ThresherRoutes(handlers);
    for (const auto& more :
         {OpenInferenceRoutes(handlers, [this] { return ready_; }), OpenAiRoutes(handlers)}) {
      routes.insert(routes.end(), more.begin(), more.end());
    }
    routes.push_back({"GET", "/", [](const HttpRequest&) { return HttpError(404, "other"); }});
    AddConsole(&routes);
    HttpServerOptions http_options;
    http_options.listen = "127.0.0.1:0";
    auto http = HttpServer::Start(http_options, std::move(routes));
    ASSERT_TRUE(http.ok()) << http.status();
    http_ = *std::move(http);
  }
  void TearDown() override {
    Release();
    http_.reset();
    grpc_.reset();
  }

  HttpAnswer Get(const std::string& path, const std::string& headers = "") {
    return AskHttp(http_->port(), GetText(path, headers));
  }
  HttpAnswer Post(const std::string& path, const std::string& body,
                  const std::string& headers = "") {
    return AskHttp(http_->port(), PostText(path, body, headers));
  }
  json PostJson(const std::string& path, const json& body) {
    const HttpAnswer answer = Post(path, body.dump());
    EXPECT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(answer.Header("Content-Type"), "application/json");
    return json::parse(answer.body);
  }
  json GetJson(const std::string& path) {
    const HttpAnswer answer = Get(path);
    EXPECT_EQ(answer.status, 200) << answer.body;
    return json::parse(answer.body);
  }
  double Counted(const std::string& series) {
    const std::string text = metrics_.Exposition();
    const size_t at = text.find(series + " ");
    return at == std::string::npos ? 0 : std::stod(text.substr(at + series.size() + 1));
  }

  /// Keeps the compute executor busy until Release, so that what is asked now waits.
  void Hold() { executor_.Hold(*scheduler_); }
  void Release() { executor_.Release(); }

  static inline Scheduler* scheduler_ = nullptr;
  static inline ModelRepository* repository_ = nullptr;
  Metrics metrics_;
  bool ready_ = true;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<HttpServer> http_;
  testing::ExecutorHold executor_;
};

const json kFilm = {{"model", {{"name", "sst2-mini"}}},
                    {"inputs", {{{"text", "a gripping, moving film"}}}}};

// ---- thresher.v1 ----

TEST_F(HttpApiTest, ClassifyTellsLayerByLayerWhatWasDropped) {
  json request = kFilm;
  request["options"]["sparsity"] = {{"policy", "spatten:final=0.4"}, {"explain", true}};
  const json answer = PostJson("/thresher.v1.Thresher/Classify", request);
  const json& result = answer["results"][0];
  EXPECT_EQ(result["label"], "positive");
  EXPECT_EQ(answer["labels"].size(), result["scores"].size());
  const json& report = result["info"]["report"];
  EXPECT_THAT(std::string(report["policy"]), StartsWith("spatten:final=0.4,"));
  EXPECT_EQ(report["token_layers"].size(), result["info"]["pieces"].size());
  const int64_t dropped =
      std::count_if(report["token_layers"].begin(), report["token_layers"].end(),
                    [&](int layers) { return layers < static_cast<int>(report["layers"].size()); });
  EXPECT_GT(dropped, 0);
  EXPECT_EQ(
      Counted("thresher_requests_total{method=\"Classify\",model=\"sst2-mini\",outcome=\"ok\"}"),
      1);
}

TEST_F(HttpApiTest, NamesAreTakenInBothSpellings) {
  const auto tokens = [&](const char* name) {
    return PostJson(
        "/thresher.v1.Thresher/Tokenize",
        {{"model", {{"name", "plain"}}}, {"inputs", {{{name, {5, 6}}}}}})["results"][0]["tokens"];
  };
  EXPECT_EQ(tokens("tokenIds").size(), 2);
  EXPECT_EQ(tokens("token_ids"), tokens("tokenIds"));
}

TEST_F(HttpApiTest, WrongRequestsAre400WithTheReason) {
  for (const auto& [body, part] : std::vector<std::pair<std::string, std::string>>{
           {"", "ClassifyRequest"},
           {"{", "ClassifyRequest"},
           {"[]", "ClassifyRequest"},
           {R"({"inputs":[{"txt":"a"}]})", "txt"},
           {R"({"inputs":"a"})", "inputs"},
           {std::string(100000, '['), "ClassifyRequest"},
           {R"({"model":{"name":"sst2-mini"}})", "no inputs"},
           {R"({"model":{"name":"sst2-mini"},"inputs":[{"text":""}]})", "empty text"}}) {
    const HttpAnswer answer = Post("/thresher.v1.Thresher/Classify", body);
    EXPECT_EQ(answer.status, 400) << body.substr(0, 60);
    const json error = json::parse(answer.body);
    EXPECT_EQ(error["code"], "invalid_argument");
    EXPECT_THAT(std::string(error["message"]), HasSubstr(part));
  }
  EXPECT_EQ(
      Post("/thresher.v1.Thresher/Classify", "{}", "Content-Type: application/proto\r\n").status,
      400);
}

TEST_F(HttpApiTest, CodesBecomeHttps) {
  const auto status = [&](const std::string& path, const json& body,
                          const std::string& headers = "") {
    const HttpAnswer answer = Post(path, body.dump(), headers);
    return std::pair(answer.status, std::string(json::parse(answer.body)["code"]));
  };
  json request = kFilm;
  request["model"]["name"] = "no";
  EXPECT_EQ(status("/thresher.v1.Thresher/Classify", request),
            std::pair(404, std::string("not_found")));
  request["model"]["name"] = "gpt";
  EXPECT_EQ(status("/thresher.v1.Thresher/Classify", request),
            std::pair(501, std::string("unimplemented")));
  EXPECT_EQ(status("/thresher.v1.Thresher/Classify", kFilm, "Grpc-Timeout: 0m\r\n"),
            std::pair(504, std::string("deadline_exceeded")));
  EXPECT_EQ(status("/thresher.v1.Thresher/Classify", kFilm, "Connect-Timeout-Ms: 0\r\n"),
            std::pair(504, std::string("deadline_exceeded")));
  for (const char* timeout :
       {"Grpc-Timeout: 5", "Grpc-Timeout: S", "Grpc-Timeout: -1S", "Grpc-Timeout: 123456789m",
        "Connect-Timeout-Ms: 1s", "Connect-Timeout-Ms: -1"}) {
    EXPECT_EQ(status("/thresher.v1.Thresher/Classify", kFilm, std::string(timeout) + "\r\n").first,
              400)
        << timeout;
  }
  EXPECT_EQ(Post("/thresher.v1.Thresher/Classify", kFilm.dump(), "Grpc-Timeout: 1H\r\n").status,
            200);
  grpc_->RefuseNewWork();
  EXPECT_EQ(status("/thresher.v1.Thresher/Classify", kFilm),
            std::pair(503, std::string("unavailable")));
}

/// Ends its work when it is cancelled.
class EndsWhenCancelled final : public GenerationHandle {
 public:
  explicit EndsWhenCancelled(HttpCall::Done<int> done) : done_(std::move(done)) {}
  void Resume() override {}
  void Cancel() override { done_(absl::CancelledError("as asked")); }

 private:
  const HttpCall::Done<int> done_;
};

TEST(HttpCallTest, AClientThatGoesAwayCancelsItsCall) {
  HttpRequest request;
  request.gone = [] { return true; };
  auto call = HttpCall::Begin(request);
  ASSERT_TRUE(call.ok());
  const auto answer = call->Wait<int>(
      [](const HttpCall::Done<int>& done) { return std::make_shared<EndsWhenCancelled>(done); });
  EXPECT_TRUE(absl::IsCancelled(answer.status()));
  EXPECT_TRUE(call->cancelled()->load());
}

TEST(HttpCallTest, OfTwoDeadlinesTheNearerCounts) {
  HttpRequest request;
  request.headers = {{"grpc-timeout", "2M"}, {"connect-timeout-ms", "60000"}};
  const auto call = HttpCall::Begin(request);
  ASSERT_TRUE(call.ok());
  EXPECT_EQ(call->deadline() - call->arrival(), absl::Minutes(1));
}

TEST_F(HttpApiTest, AFullQueueSaysWhenToComeAgain) {
  Hold();
  std::vector<std::unique_ptr<RawClient>> waiting;
  json many = kFilm;
  for (int i = 1; i < 256; ++i) many["inputs"].push_back({{"text", "film"}});
  HttpAnswer refused;
  for (int i = 0; i < 6 && refused.status == 0; ++i) {
    auto client = std::make_unique<RawClient>(http_->port());
    client->Send(PostText("/thresher.v1.Thresher/Classify", many.dump()));
    waiting.push_back(std::move(client));
    if (i < 4) {
      while (scheduler_->snapshot().queued < 256 * (i + 1)) std::this_thread::yield();
    } else {
      refused = ParseAnswer(waiting.back()->Receive());
    }
  }
  EXPECT_EQ(refused.status, 429) << refused.body;
  EXPECT_GE(std::stoi(refused.Header("Retry-After")), 1);
  EXPECT_GE(std::stoi(refused.Header("Retry-After-Ms")), 10);
  Release();
}

const json kPrompt = {{"model", {{"name", "gpt"}}},
                      {"prompt", {{"token_ids", {1, 2, 3}}}},
                      {"max_tokens", 6},
                      {"ignore_eos", true}};

TEST_F(HttpApiTest, GenerateStreamsLinesOfJsonAndTellsWhoseKeysWereRead) {
  json request = kPrompt;
  request["echo"] = true;
  request["options"]["sparsity"] = {{"policy", "sinks:first=1,recent=3"}, {"explain", true}};
  const HttpAnswer answer = Post("/thresher.v1.Thresher/Generate", request.dump());
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.Header("Content-Type"), "application/x-ndjson");
  std::istringstream lines(answer.body);
  int tokens = 0;
  json end;
  for (std::string line; std::getline(lines, line);) {
    const json message = json::parse(line);
    EXPECT_TRUE(end.is_null());
    tokens += static_cast<int>(message["tokens"].size());
    if (message.contains("end")) end = message["end"];
  }
  EXPECT_EQ(tokens, 3 + 6);
  EXPECT_EQ(end["finish_reason"], "length");
  EXPECT_EQ(end["usage"]["generated_tokens"], 6);
  // The last token is never run: eight have keys, of which the first and the last three are read.
  for (const json& layer : end["report"]["keys_read"]) {
    EXPECT_EQ(layer["heads"].size(), 8);
    EXPECT_GT(layer["heads"][0], 0);
    EXPECT_EQ(layer["heads"][1], 0);
    EXPECT_EQ(layer["heads"][4], 0);
    EXPECT_GT(layer["heads"][5], 0);
  }
  EXPECT_FALSE(end["report"]["keys_read"].empty());
}

TEST_F(HttpApiTest, WhatIsWrongWithATextIsAStatusBeforeIt) {
  json request = kPrompt;
  request["sampling"] = {{"temperature", -1}};
  EXPECT_EQ(Post("/thresher.v1.Thresher/Generate", request.dump()).status, 400);
  EXPECT_EQ(Post("/thresher.v1.Thresher/Generate", "{").status, 400);
}

TEST_F(HttpApiTest, ScoreAddsUp) {
  const json answer =
      PostJson("/thresher.v1.Thresher/Score", {{"model", {{"name", "gpt"}}},
                                               {"inputs", {{{"token_ids", {1, 2, 3, 4}}}}},
                                               {"per_token", true}});
  EXPECT_EQ(answer["results"][0]["scored_tokens"], 3);
  EXPECT_EQ(answer["results"][0]["tokens"].size(), 3);
}

// ---- Open Inference ----

TEST_F(HttpApiTest, OpenInferenceTellsOfServerAndModels) {
  EXPECT_THAT(GetJson("/v2")["extensions"].get<std::vector<std::string>>(),
              IsSupersetOf({"binary_tensor_data", "statistics"}));
  EXPECT_EQ(GetJson("/v2/health/live")["live"], true);
  EXPECT_EQ(GetJson("/v2/health/ready")["ready"], true);
  ready_ = false;
  EXPECT_EQ(Get("/v2/health/ready").status, 400);
  EXPECT_EQ(GetJson("/v2/models/sst2-mini")["outputs"][0]["name"], "logits");
  EXPECT_EQ(GetJson("/v2/models/sst2-mini/versions/1")["versions"], json({"1"}));
  EXPECT_EQ(GetJson("/v2/models/sst2-mini/ready")["ready"], true);
  EXPECT_EQ(GetJson("/v2/models/sst2-mini/config")["backend"], "thresher");
  EXPECT_EQ(GetJson("/v2/models/sst2-mini/stats")["model_stats"].size(), 1);
  EXPECT_EQ(GetJson("/v2/models/stats")["model_stats"].size(), 3);
  EXPECT_EQ(PostJson("/v2/repository/index", json::object()).size(), 3);
  for (const char* path :
       {"/v2/models/no", "/v2/models/no/ready", "/v2/models/sst2-mini/versions/7/ready",
        "/v2/models/sst2-mini/what", "/v2/models/sst2-mini/ready/more", "/v2/models/", "/v2/what",
        "/v2/models/sst2-mini/versions"}) {
    EXPECT_EQ(Get(path).status, 404) << path;
  }
}

json TextInput(const json& data, int rows) {
  return {
      {"inputs", {{{"name", "text"}, {"datatype", "BYTES"}, {"shape", {rows}}, {"data", data}}}}};
}

TEST_F(HttpApiTest, OpenInferenceAnswersTextsAsJson) {
  json request = TextInput({"a gripping, moving film", "dull"}, 2);
  request["id"] = "7";
  request["outputs"] = {{{"name", "label"}}, {{"name", "scores"}}};
  request["parameters"] = {{"sparsity", "spatten:final=0.5"}, {"truncate", true}};
  const json answer = PostJson("/v2/models/sst2-mini/infer", request);
  EXPECT_EQ(answer["model_name"], "sst2-mini");
  EXPECT_EQ(answer["id"], "7");
  ASSERT_EQ(answer["outputs"].size(), 2);
  EXPECT_EQ(answer["outputs"][0]["data"], json({"positive", "negative"}));
  EXPECT_EQ(answer["outputs"][1]["shape"], json({2, 2}));
  EXPECT_NEAR(
      answer["outputs"][1]["data"][0].get<double>() + answer["outputs"][1]["data"][1].get<double>(),
      1, 1e-5);
  EXPECT_THAT(std::string(answer["parameters"]["policy"]), StartsWith("spatten:final=0.5,"));
  EXPECT_EQ(
      Counted("thresher_requests_total{method=\"ModelInfer\",model=\"sst2-mini\",outcome=\"ok\"}"),
      2);
}

TEST_F(HttpApiTest, OpenInferenceTakesAndGivesBinaryTensors) {
  const json nested = {{"inputs",
                        {{{"name", "input_ids"},
                          {"datatype", "INT64"},
                          {"shape", {2, 3}},
                          {"data", {{5, 6, 7}, {8, 9, 0}}}},
                         {{"name", "attention_mask"},
                          {"datatype", "INT64"},
                          {"shape", {2, 3}},
                          {"data", {1, 1, 1, 1, 1, 0}}}}}};
  const json expected = PostJson("/v2/models/plain/infer", nested)["outputs"][0];
  EXPECT_EQ(expected["name"], "embedding");
  json head = nested;
  head["parameters"]["binary_data_output"] = true;
  json& ids = head["inputs"][0];
  ids.erase("data");
  ids["parameters"]["binary_data_size"] = 48;
  const std::string text = head.dump();
  std::string body = text;
  for (const int64_t id : {5, 6, 7, 8, 9, 0}) body.append(reinterpret_cast<const char*>(&id), 8);
  const HttpAnswer answer =
      Post("/v2/models/plain/infer", body,
           fmt::format("Inference-Header-Content-Length: {}\r\n", text.size()));
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.Header("Content-Type"), "application/octet-stream");
  const size_t length = std::stoul(answer.Header("Inference-Header-Content-Length"));
  const json output = json::parse(answer.body.substr(0, length))["outputs"][0];
  EXPECT_EQ(output["shape"], expected["shape"]);
  const std::string raw = answer.body.substr(length);
  ASSERT_EQ(raw.size(), output["parameters"]["binary_data_size"]);
  ASSERT_EQ(raw.size(), expected["data"].size() * sizeof(float));
  for (size_t i = 0; i < expected["data"].size(); ++i) {
    float value;
    std::memcpy(&value, raw.data() + i * sizeof(value), sizeof(value));
    EXPECT_EQ(value, expected["data"][i].get<float>());
  }
}

TEST_F(HttpApiTest, OpenInferenceGivesADecodersTextAtOnce) {
  json request = TextInput({"ab"}, 1);
  request["parameters"] = {{"max_tokens", 4}, {"ignore_eos", true}, {"stop", {"never", "ever"}}};
  const json answer = PostJson("/v2/models/gpt/infer", request);
  EXPECT_EQ(answer["outputs"][1]["name"], "token_ids");
  EXPECT_EQ(answer["outputs"][1]["data"].size(), 4);
  EXPECT_EQ(answer["parameters"]["finish_reason"], "length");
}

TEST_F(HttpApiTest, OpenInferenceErrorsSayWhy) {
  const auto error = [&](const std::string& path, const std::string& body,
                         const std::string& headers = "") {
    const HttpAnswer answer = Post(path, body, headers);
    return std::pair(answer.status, std::string(json::parse(answer.body)["error"]));
  };
  EXPECT_EQ(error("/v2/models/no/infer", TextInput({"a"}, 1).dump()).first, 404);
  const auto bad = [&](const std::string& body, const std::string& part,
                       const std::string& headers = "") {
    const auto [status, message] = error("/v2/models/sst2-mini/infer", body, headers);
    EXPECT_EQ(status, 400) << body;
    EXPECT_THAT(message, HasSubstr(part)) << body;
  };
  bad("", "empty");
  bad("nonsense", "byte 2");
  bad("{}", "neither of");
  bad(TextInput({"a"}, 2).dump(), "needs 2 values");
  bad(TextInput({""}, 1).dump(), "row 0: empty text");
  bad(TextInput({1}, 1).dump(), "BYTES are strings");
  bad(TextInput({"a"}, 1).dump(), "the body has", "Inference-Header-Content-Length: 1000000\r\n");
  bad(TextInput({"a"}, 1).dump() + "    ", "belong to no input",
      fmt::format("Inference-Header-Content-Length: {}\r\n", TextInput({"a"}, 1).dump().size()));
  bad(TextInput({"a"}, 1).dump(), "no number of bytes", "Inference-Header-Content-Length: x\r\n");
  EXPECT_EQ(Post("/v2/models/sst2-mini/what", "{}").status, 404);
}

// ---- OpenAI ----

TEST_F(HttpApiTest, OpenAiListsModels) {
  const json models = GetJson("/v1/models");
  EXPECT_EQ(models["object"], "list");
  EXPECT_EQ(models["data"].size(), 3);
  EXPECT_EQ(models["data"][0]["id"], "gpt");
  EXPECT_EQ(GetJson("/v1/models/gpt")["object"], "model");
  const HttpAnswer missing = Get("/v1/models/no");
  EXPECT_EQ(missing.status, 404);
  EXPECT_EQ(json::parse(missing.body)["error"]["code"], "model_not_found");
}

/// Writers differ in digits, not in the float.
std::vector<float> Floats(const json& list) { return list.get<std::vector<float>>(); }

TEST_F(HttpApiTest, OpenAiEmbeddingsAreThoseOfEmbed) {
  const json embed = PostJson(
      "/thresher.v1.Thresher/Embed",
      {{"model", {{"name", "plain"}}}, {"inputs", {{{"text", "ab"}}, {{"token_ids", {5, 6}}}}}});
  const json answer = PostJson("/v1/embeddings", {{"model", "plain"}, {"input", {"ab"}}});
  EXPECT_EQ(answer["data"][0]["object"], "embedding");
  EXPECT_EQ(Floats(answer["data"][0]["embedding"]), Floats(embed["results"][0]["values"]));
  EXPECT_EQ(answer["usage"]["prompt_tokens"], embed["results"][0]["info"]["tokens"]);
  EXPECT_EQ(Floats(PostJson("/v1/embeddings",
                            {{"model", "plain"}, {"input", {5, 6}}})["data"][0]["embedding"]),
            Floats(embed["results"][1]["values"]));
  const json base64 = PostJson(
      "/v1/embeddings", {{"model", "plain"}, {"input", "ab"}, {"encoding_format", "base64"}});
  const size_t bytes = embed["results"][0]["values"].size() * sizeof(float);
  EXPECT_EQ(base64["data"][0]["embedding"].get<std::string>().size(), (bytes + 2) / 3 * 4);
}

TEST_F(HttpApiTest, OpenAiRefusesAllOfABatchWithABadInput) {
  const HttpAnswer answer = Post("/v1/embeddings", R"({"model":"plain","input":["ab",""]})");
  EXPECT_EQ(answer.status, 400);
  EXPECT_THAT(std::string(json::parse(answer.body)["error"]["message"]),
              HasSubstr("input 1: empty text"));
}

const json kCompletion = {{"model", "gpt"},   {"prompt", {1, 2, 3}}, {"max_tokens", 6},
                          {"temperature", 0}, {"ignore_eos", true},  {"seed", 7},
                          {"top_p", 1}};

/// What the events of a stream carry.
std::vector<std::string> Chunks(const std::string& events) {
  std::istringstream lines(events);
  std::vector<std::string> chunks;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    EXPECT_THAT(line, StartsWith("data: "));
    chunks.push_back(line.substr(6));
  }
  return chunks;
}

TEST_F(HttpApiTest, OpenAiCompletionsAreTextsOfGenerate) {
  const json answer = PostJson("/v1/completions", kCompletion);
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["model"], "gpt");
  EXPECT_THAT(std::string(answer["id"]), StartsWith("cmpl-"));
  const json& choice = answer["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(choice["index"], 0);
  EXPECT_TRUE(choice["logprobs"].is_null());
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 6);
  EXPECT_EQ(answer["usage"]["total_tokens"], 9);
  EXPECT_EQ(answer["report"]["policy"], "dense");

  json streamed = kCompletion;
  streamed["stream"] = true;
  streamed["stream_options"] = {{"include_usage", true}};
  const HttpAnswer events = Post("/v1/completions", streamed.dump());
  ASSERT_EQ(events.status, 200) << events.body;
  EXPECT_THAT(events.Header("Content-Type"), HasSubstr("text/event-stream"));
  std::vector<std::string> chunks = Chunks(events.body);
  ASSERT_GE(chunks.size(), 3);
  EXPECT_EQ(chunks.back(), "[DONE]");
  EXPECT_EQ(json::parse(chunks[chunks.size() - 2])["usage"], answer["usage"]);
  chunks.resize(chunks.size() - 2);
  std::string text;
  for (const std::string& chunk : chunks)
    text += std::string(json::parse(chunk)["choices"][0]["text"]);
  EXPECT_EQ(choice["text"], text);
  EXPECT_EQ(json::parse(chunks.back())["choices"][0]["finish_reason"], "length");
}

TEST_F(HttpApiTest, OpenAiLogprobsAreTheTokensOwn) {
  json request = kCompletion;
  request["logprobs"] = 2;
  request["echo"] = true;
  const json logprobs = PostJson("/v1/completions", request)["choices"][0]["logprobs"];
  for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    EXPECT_EQ(logprobs[list].size(), 9) << list;
  }
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_LT(logprobs["token_logprobs"][8], 0);
  EXPECT_EQ(logprobs["top_logprobs"][8].size(), 2);
}

TEST_F(HttpApiTest, OpenAiSamplesByDefaultAndTellsTheSeed) {
  json request = kCompletion;
  request.erase("temperature");
  request["seed"] = 11;
  const json one = PostJson("/v1/completions", request);
  EXPECT_EQ(one["choices"][0]["seed"], 11);
  EXPECT_EQ(PostJson("/v1/completions", request)["choices"], one["choices"]);
}

TEST_F(HttpApiTest, OpenAiCompletesSeveralPromptsSeveralTimesEach) {
  json request = kCompletion;
  request.erase("temperature");
  // What each completion is when it is asked for alone.
  json alone = json::array();
  int64_t generated = 0;
  for (const auto& prompt : {json{1, 2, 3}, json{4, 5}}) {
    for (const uint64_t seed : {7, 8, 9}) {
      request["prompt"] = prompt;
      request["seed"] = seed;
      const json one = PostJson("/v1/completions", request);
      generated += one["usage"]["completion_tokens"].get<int64_t>();
      alone.push_back(one["choices"][0]);
      alone.back()["index"] = alone.size() - 1;
    }
  }
  request["prompt"] = {{1, 2, 3}, {4, 5}};
  request["seed"] = 7;
  request["n"] = request["best_of"] = 3;
  const json answer = PostJson("/v1/completions", request);
  EXPECT_EQ(answer["choices"], alone);
  EXPECT_NE(alone[0]["text"], alone[1]["text"]);
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 5);  // Each prompt once.
  EXPECT_EQ(answer["usage"]["completion_tokens"], generated);
  EXPECT_EQ(answer["report"]["policy"], "dense");

  request["stream"] = true;
  request["stream_options"] = {{"include_usage", true}};
  std::vector<std::string> chunks = Chunks(Post("/v1/completions", request.dump()).body);
  ASSERT_GT(chunks.size(), 8);
  EXPECT_EQ(chunks.back(), "[DONE]");
  EXPECT_EQ(json::parse(chunks[chunks.size() - 2])["usage"], answer["usage"]);
  chunks.resize(chunks.size() - 2);
  json joined = alone;
  for (json& choice : joined) choice["text"] = "";
  for (const std::string& chunk : chunks) {
    const json choices = json::parse(chunk)["choices"];
    ASSERT_EQ(choices.size(), 1);
    json& choice = joined[choices[0]["index"].get<size_t>()];
    const std::string text = choice["text"].get<std::string>() + std::string(choices[0]["text"]);
    choice.update(choices[0]);
    choice["text"] = text;
  }
  EXPECT_EQ(joined, alone);
}

TEST_F(HttpApiTest, OpenAiTextsAreAllRefusedWithTheFirstThatIs) {
  json request = kCompletion;
  request["prompt"] = {json{1, 2, 3}, json{4000000}};
  const HttpAnswer answer = Post("/v1/completions", request.dump());
  EXPECT_EQ(answer.status, 400);
  const json error = json::parse(answer.body)["error"];
  EXPECT_EQ(error["param"], "prompt") << error;
  EXPECT_THAT(std::string(error["message"]), StartsWith("prompt[1]: "));
}

TEST_F(HttpApiTest, OpenAiErrorsNameTheField) {
  const auto check = [&](json change, const std::string& param, const std::string& part) {
    json request = kCompletion;
    request.update(change);
    const HttpAnswer answer = Post("/v1/completions", request.dump());
    EXPECT_EQ(answer.status, 400) << change;
    const json error = json::parse(answer.body)["error"];
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_EQ(error["param"], param) << error;
    EXPECT_THAT(std::string(error["message"]), HasSubstr(part));
  };
  check({{"n", 0}}, "n", "from 1 to 128");
  check({{"n", 65}, {"prompt", {"a", "b"}}}, "n", "are 130");
  check({{"n", 2}, {"best_of", 3}}, "best_of", "as many as n");
  check({{"presence_penalty", 0.5}}, "presence_penalty", "not supported");
  check({{"max_tokens", "many"}}, "max_tokens", "whole number");
  check({{"max_tokens", 0}}, "max_tokens", "1 or more");
  check({{"temperature", -1}}, "temperature", "-1");
  check({{"prompt", {"a", 1}}}, "prompt", "a string, a list");
  check({{"prompt", nullptr}}, "prompt", "is missing");
  check({{"logprobs", 21}}, "logprobs", "from 0 to 20");
  check({{"stop", {1}}}, "stop", "list of strings");
  check({{"stop", {""}}}, "stop", "is empty");
  check({{"stream_options", {{"include_usage", true}}}}, "stream_options", "goes with stream");
  check({{"sparsity", "nonsense"}}, "sparsity", "nonsense");
  const json unknown = json::parse(Post("/v1/completions", R"({"model":"gpt","promt":"a"})").body);
  EXPECT_THAT(std::string(unknown["error"]["message"]), HasSubstr("the fields are: best_of"));
  EXPECT_EQ(Post("/v1/completions", R"({"model":"no","prompt":"a"})").status, 404);
}

// ---- The console ----

TEST_F(HttpApiTest, BrowsersGetTheConsoleAndOthersWhatTheyDid) {
  const HttpAnswer page = Get("/", "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n");
  EXPECT_EQ(page.status, 200);
  EXPECT_THAT(page.Header("Content-Type"), HasSubstr("text/html"));
  const std::string policy = page.Header("Content-Security-Policy");
  EXPECT_THAT(policy, HasSubstr("script-src 'self';"));
  EXPECT_THAT(policy, ::testing::Not(HasSubstr("unsafe")));
  EXPECT_EQ(Get("/", "Accept: application/json\r\n").status, 404);
  EXPECT_EQ(Get("/").status, 404);
  // All that the page names is there.
  for (size_t at = 0; (at = page.body.find("\"console/", at)) != std::string::npos;) {
    const size_t end = page.body.find('"', at + 1);
    const std::string path = "/" + page.body.substr(at + 1, end - at - 1);
    const HttpAnswer file = Get(path);
    EXPECT_EQ(file.status, 200) << path;
    EXPECT_FALSE(file.body.empty());
    at = end;
  }
  EXPECT_EQ(page.body.find("style="), std::string::npos);
  EXPECT_THAT(Get("/console/main.mjs").Header("Content-Type"), HasSubstr("text/javascript"));
}

}  // namespace
}  // namespace thresher
