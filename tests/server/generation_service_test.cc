// Generate and Score of thresher.v1, and decoders over the Open Inference Protocol, on a tiny GPT-2
// with random weights.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "inference/open_inference_grpc.grpc.pb.h"
#include "server/generation_metrics.h"
#include "server/grpc_server.h"
#include "server/inference.h"
#include "server/text_generation.h"
#include "tests/server/fake_model.h"
#include "tests/testing/paths.h"
#include "thresher/v1/thresher.grpc.pb.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using testing::FakeEngine;
using ::testing::HasSubstr;
using testing::SourceDir;

constexpr int kContext = 48;
constexpr int kVocabulary = 64;

/// All that a stream gave.
struct Written {
  grpc::Status status;
  std::vector<v1::GeneratedToken> tokens;
  v1::GenerateEnd end;
  bool ended = false;
  std::string text;  // The whole.
};

class GenerationServiceTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(size_t{1} << 30); }

  void Start(size_t kv_cache_bytes) {
    Stop();
    scheduler_ = std::make_unique<Scheduler>(SchedulerOptions(), &metrics_);
    pool_ = std::make_shared<KvPool>(kv_cache_bytes);
    RepositoryOptions options;
    options.device = "reference";
    options.scheduler = scheduler_.get();
    options.kv_pool = pool_;
    options.generator = generator_;
    options.observer = [this](const std::string& model) { return &metrics_.TextsOf(model); };
    std::vector<v1::ModelConfig> models(2);
    models[0].set_name("gpt");
    models[0].set_path(decoder_.string());
    models[1].set_name("encoder");
    models[1].set_path((SourceDir() / "tests/golden/bert-plain").string());
    repository_ = std::make_unique<ModelRepository>(options, models);
    loaded_ = repository_->LoadAll();
    metrics_.Watch(scheduler_.get(), repository_.get());
    GrpcServerOptions server_options;
    server_options.listen = "127.0.0.1:0";
    auto server = GrpcServer::Start(server_options, repository_.get(), scheduler_.get(), &metrics_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->SetServing(true);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto channel = grpc::CreateCustomChannel(server_->address(),
                                                   grpc::InsecureChannelCredentials(), arguments);
    thresher_ = v1::Thresher::NewStub(channel);
    inference_ = inference::GRPCInferenceService::NewStub(channel);
  }
  void Stop() {
    Release();
    metrics_.Watch(nullptr, nullptr);
    server_.reset();
    repository_.reset();
    scheduler_.reset();
  }
  void TearDown() override { Stop(); }

  /// Keeps the compute executor busy until Release, so that texts wait.
  void Hold() { executor_.Hold(*scheduler_); }
  void Release() { executor_.Release(); }
  void AwaitWaiting(int texts) {
    const auto served = *repository_->Find("gpt", "");
    while (served->generator->snapshot().waiting != texts) std::this_thread::yield();
  }

  static v1::GenerateRequest Ask(const std::string& prompt, int max_tokens = 8) {
    v1::GenerateRequest request;
    request.mutable_model()->set_name("gpt");
    request.mutable_prompt()->set_text(prompt);
    request.set_max_tokens(max_tokens);
    request.set_ignore_eos(true);
    return request;
  }
  Written Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    return Generate(&context, request);
  }
  Written Generate(grpc::ClientContext* context, const v1::GenerateRequest& request) {
    Written written;
    const auto reader = thresher_->Generate(context, request);
    v1::GenerateResponse message;
    while (reader->Read(&message)) {
      EXPECT_FALSE(written.ended);
      EXPECT_NE(message.tokens_size() > 0, message.has_end());
      for (const auto& token : message.tokens()) {
        written.tokens.push_back(token);
        written.text += token.text();
      }
      if (!message.has_end()) continue;
      written.ended = true;
      written.end = message.end();
      written.text += message.end().text();
    }
    written.status = reader->Finish();
    EXPECT_EQ(written.ended, written.status.ok());
    return written;
  }
  void ExpectRefused(const v1::GenerateRequest& request, const std::string& part,
                     grpc::StatusCode code = grpc::StatusCode::INVALID_ARGUMENT) {
    const Written written = Generate(request);
    EXPECT_EQ(written.status.error_code(), code) << written.status.error_message();
    EXPECT_THAT(written.status.error_message(), HasSubstr(part));
    EXPECT_TRUE(written.tokens.empty());
  }
  static std::vector<int> Ids(const Written& written) {
    std::vector<int> ids;
    for (const auto& token : written.tokens) ids.push_back(token.id());
    return ids;
  }

  static inference::ModelInferRequest InferText(const std::string& prompt) {
    inference::ModelInferRequest request;
    request.set_model_name("gpt");
    request.set_id("7");
    auto* tensor = request.add_inputs();
    tensor->set_name("text");
    tensor->set_datatype("BYTES");
    tensor->add_shape(1);
    tensor->mutable_contents()->add_bytes_contents(prompt);
    (*request.mutable_parameters())["max_tokens"].set_int64_param(8);
    (*request.mutable_parameters())["ignore_eos"].set_bool_param(true);
    return request;
  }
  grpc::Status Infer(const inference::ModelInferRequest& request,
                     inference::ModelInferResponse* response) {
    grpc::ClientContext context;
    return inference_->ModelInfer(&context, request, response);
  }

  std::filesystem::path decoder_ = SourceDir() / "tests/golden/decoder-gpt2";  // The model "gpt".
  GeneratorOptions generator_;
  Metrics metrics_;
  std::unique_ptr<Scheduler> scheduler_;
  std::shared_ptr<KvPool> pool_;
  std::unique_ptr<ModelRepository> repository_;
  absl::Status loaded_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<v1::Thresher::Stub> thresher_;
  std::unique_ptr<inference::GRPCInferenceService::Stub> inference_;

 private:
  testing::ExecutorHold executor_;
};

/// One case of the model's golden file: ids, and the logits after each.
struct GoldenCase {
  std::vector<int> ids;
  std::vector<double> logits;
  std::span<const double> Row(size_t i) const {
    return std::span(logits).subspan(i * kVocabulary, kVocabulary);
  }
};
std::vector<GoldenCase> ReadGolden() {
  std::ifstream file(SourceDir() / "tests/golden/decoder-gpt2/golden.json");
  std::vector<GoldenCase> cases;
  const auto golden = nlohmann::json::parse(file);  // Outlives its items.
  for (const auto& item : golden["cases"]) {
    cases.push_back(
        {item["ids"].get<std::vector<int>>(), item["logits"].get<std::vector<double>>()});
  }
  return cases;
}
double LogProbabilityOf(std::span<const double> logits, int id) {
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  return logits[static_cast<size_t>(id)] - std::log(sum);
}

TEST_F(GenerationServiceTest, GreedyTakesTheMostProbableTokenOfTheGoldenLogits) {
  for (const GoldenCase& golden : ReadGolden()) {
    if (golden.ids.size() >= kContext) continue;
    v1::GenerateRequest request = Ask("", 1);
    request.mutable_prompt()->mutable_token_ids()->Add(golden.ids.begin(), golden.ids.end());
    request.set_logprobs(true);
    const Written written = Generate(request);
    ASSERT_TRUE(written.status.ok()) << written.status.error_message();
    const auto last = golden.Row(golden.ids.size() - 1);
    const int best = static_cast<int>(std::ranges::max_element(last) - last.begin());
    EXPECT_THAT(Ids(written), ElementsAre(best));
    EXPECT_NEAR(written.tokens[0].logprob(), LogProbabilityOf(last, best), 1e-4);
    EXPECT_EQ(written.end.usage().prompt_tokens(), static_cast<int>(golden.ids.size()));
  }
}

TEST_F(GenerationServiceTest, ScoresAreThoseOfTheGoldenLogits) {
  v1::ScoreRequest request;
  request.mutable_model()->set_name("gpt");
  request.set_per_token(true);
  const std::vector<GoldenCase> cases = ReadGolden();
  for (const GoldenCase& golden : cases) {
    request.add_inputs()->mutable_token_ids()->Add(golden.ids.begin(), golden.ids.end());
  }
  request.add_inputs()->add_token_ids(9999);  // Fails alone.
  request.add_inputs();
  grpc::ClientContext context;
  v1::ScoreResponse response;
  const grpc::Status status = thresher_->Score(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.results_size(), static_cast<int>(cases.size()) + 2);
  for (size_t c = 0; c < cases.size(); ++c) {
    const v1::TextScore& score = response.results(static_cast<int>(c));
    const GoldenCase& golden = cases[c];
    ASSERT_EQ(score.scored_tokens(), static_cast<int>(golden.ids.size()) - 1);
    ASSERT_EQ(score.tokens_size(), score.scored_tokens());
    double sum = 0;
    for (size_t i = 0; i + 1 < golden.ids.size(); ++i) {
      const double expected = LogProbabilityOf(golden.Row(i), golden.ids[i + 1]);
      sum += expected;
      EXPECT_EQ(score.tokens(static_cast<int>(i)).id(), golden.ids[i + 1]);
      EXPECT_NEAR(score.tokens(static_cast<int>(i)).logprob(), expected, 1e-4);
    }
    EXPECT_NEAR(score.logprob(), sum, 1e-3);
    EXPECT_EQ(score.info().tokens(), static_cast<int>(golden.ids.size()));
    EXPECT_EQ(score.info().report().policy(), "dense");
  }
  const auto failed = [&](int back) {
    return response.results(response.results_size() - back).info().status().code();
  };
  EXPECT_EQ(failed(2), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(failed(1), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(GenerationServiceTest, TheEndTellsUsageTimesAndReport) {
  const Written written = Generate(Ask("the cat", 8));
  ASSERT_TRUE(written.status.ok()) << written.status.error_message();
  EXPECT_EQ(written.tokens.size(), 8u);
  const v1::GenerateEnd& end = written.end;
  EXPECT_EQ(end.finish_reason(), "length");
  EXPECT_EQ(end.model().name(), "gpt");
  EXPECT_EQ(end.model().version(), "1");
  EXPECT_EQ(end.seed(), 0u);
  EXPECT_GT(end.usage().prompt_tokens(), 0);
  EXPECT_EQ(end.usage().generated_tokens(), 8);
  EXPECT_GT(end.timings().first_token(), 0);
  EXPECT_GE(end.timings().total(), end.timings().first_token());
  EXPECT_GE(end.timings().total(), end.timings().compute());
  EXPECT_EQ(end.report().policy(), "dense");
  EXPECT_EQ(end.report().layers_size(), 0);  // Without explain.
  EXPECT_GT(end.report().kv_held().done(), 0);
  EXPECT_EQ(end.report().kv_held().done(), end.report().kv_held().dense());
}

TEST_F(GenerationServiceTest, TheSameSeedGivesTheSameText) {
  v1::GenerateRequest request = Ask("the", 20);
  request.mutable_sampling()->set_temperature(1.5);
  const Written first = Generate(request);
  ASSERT_TRUE(first.status.ok());
  EXPECT_NE(first.end.seed(), 0u);
  request.mutable_sampling()->set_seed(first.end.seed());
  const Written again = Generate(request);
  EXPECT_EQ(Ids(again), Ids(first));
  EXPECT_EQ(again.end.seed(), first.end.seed());
  request.mutable_sampling()->set_seed(first.end.seed() + 1);
  EXPECT_NE(Ids(Generate(request)), Ids(first));
}

TEST_F(GenerationServiceTest, ContradictionsAndNonsenseAreRefused) {
  const auto refuse = [&](const std::string& part, const auto& change) {
    v1::GenerateRequest request = Ask("the", 4);
    change(request);
    ExpectRefused(request, part);
  };
  using Request = v1::GenerateRequest;
  refuse("seed:", [](Request& r) { r.mutable_sampling()->set_seed(1); });
  refuse("top_k:", [](Request& r) { r.mutable_sampling()->set_top_k(3); });
  refuse("top_p:", [](Request& r) { r.mutable_sampling()->set_top_p(0.5); });
  refuse("min_p:", [](Request& r) { r.mutable_sampling()->set_min_p(0.5); });
  refuse("temperature", [](Request& r) { r.mutable_sampling()->set_temperature(-1); });
  refuse("temperature", [](Request& r) { r.mutable_sampling()->set_temperature(NAN); });
  refuse("top_k", [](Request& r) { r.mutable_sampling()->set_top_k(-1); });
  refuse("top_p", [](Request& r) { r.mutable_sampling()->set_top_p(0); });
  refuse("repetition_penalty", [](Request& r) { r.mutable_sampling()->set_repetition_penalty(0); });
  refuse("stop[1]: is empty", [](Request& r) {
    r.add_stop("x");
    r.add_stop("");
  });
  refuse("stop[0]: has 257 bytes", [](Request& r) { r.add_stop(std::string(257, 'x')); });
  refuse("17 strings", [](Request& r) {
    for (int i = 0; i < 17; ++i) r.add_stop("x");
  });
  refuse("max_tokens: is 0", [](Request& r) { r.set_max_tokens(0); });
  refuse("max_tokens: is -5", [](Request& r) { r.set_max_tokens(-5); });
  refuse("max_tokens: is 48", [](Request& r) { r.set_max_tokens(kContext); });
  refuse("top_logprobs", [](Request& r) { r.set_top_logprobs(1); });
  refuse("top_logprobs", [](Request& r) {
    r.set_logprobs(true);
    r.set_top_logprobs(21);
  });
  refuse("pair:", [](Request& r) { r.mutable_prompt()->set_pair("x"); });
  refuse("token_type_ids", [](Request& r) { r.mutable_prompt()->add_token_type_ids(0); });
  refuse("both a text and token ids", [](Request& r) { r.mutable_prompt()->add_token_ids(5); });
  refuse("id 64 is not within", [](Request& r) {
    r.mutable_prompt()->clear_text();
    r.mutable_prompt()->add_token_ids(kVocabulary);
  });
  refuse("sparsity",
         [](Request& r) { r.mutable_options()->mutable_sparsity()->set_policy("no-such"); });
  refuse("quality profiles are of encoders",
         [](Request& r) { r.mutable_options()->mutable_sparsity()->set_max_quality_loss(0.01); });
}

TEST_F(GenerationServiceTest, APromptThatIsTooLongIsRefusedOrLosesItsBeginning) {
  v1::GenerateRequest request = Ask("", 8);
  auto* ids = request.mutable_prompt()->mutable_token_ids();
  ids->Add(0);  // BOS.
  for (int i = 0; i < 60; ++i) ids->Add(5 + i % 20);
  ExpectRefused(request, "the prompt has 61 tokens, and model 'gpt' has a context of 48");
  request.mutable_options()->set_truncate(true);
  request.set_echo(true);
  const Written cut = Generate(request);
  ASSERT_TRUE(cut.status.ok()) << cut.status.error_message();
  EXPECT_EQ(cut.end.usage().prompt_tokens(), kContext - 8);
  ASSERT_EQ(cut.tokens.size(), static_cast<size_t>(kContext));
  EXPECT_EQ(cut.tokens[0].id(), 0);                       // BOS stays,
  EXPECT_EQ(cut.tokens[kContext - 9].id(), 5 + 59 % 20);  // and the newest.
  request.clear_max_tokens();
  const Written half = Generate(request);
  EXPECT_EQ(half.end.usage().prompt_tokens(), kContext / 2);
  EXPECT_EQ(half.end.usage().generated_tokens(), kContext / 2);
}

TEST_F(GenerationServiceTest, OfATextThatIsTooLongOnlyThatIsTold) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "the ";
  ExpectRefused(Ask(text), "the prompt has more than 48 tokens, and model 'gpt' has a context of");
}

TEST_F(GenerationServiceTest, ThePromptOfAnEndlessTextIsBoundByTheContext) {
  // The golden model has no tokenizer; none is needed for ids, but to load it.
  const auto gpt =
      std::exchange(decoder_, std::filesystem::path(::testing::TempDir()) / "endless-text-decoder");
  std::filesystem::remove_all(decoder_);
  std::filesystem::copy(SourceDir() / "tests/golden/decoder-llama3", decoder_);
  for (const char* file : {"vocab.json", "merges.txt", "tokenizer_config.json"}) {
    std::filesystem::copy(gpt / file, decoder_);
  }
  Start(size_t{1} << 30);
  ASSERT_TRUE(loaded_.ok()) << loaded_;
  const int context = (*repository_->Find("gpt", ""))->generator->engine().max_tokens();
  v1::GenerateRequest request = Ask("", 8);
  request.mutable_options()->mutable_sparsity()->set_policy("sinks:first=1,recent=8");
  for (int i = 0; i <= context; ++i) request.mutable_prompt()->add_token_ids(5);
  ExpectRefused(request, fmt::format("has a context of {}; shorten it", context));
}

TEST_F(GenerationServiceTest, AnEmptyPromptStartsFromBos) {
  v1::GenerateRequest request = Ask("", 6);
  const Written empty = Generate(request);
  ASSERT_TRUE(empty.status.ok()) << empty.status.error_message();
  EXPECT_EQ(empty.end.usage().prompt_tokens(), 1);
  request.mutable_prompt()->add_token_ids(0);
  EXPECT_EQ(Ids(Generate(request)), Ids(empty));
}

TEST_F(GenerationServiceTest, AStopStringEndsTheTextBeforeIt) {
  const Written whole = Generate(Ask("the", 20));
  ASSERT_GT(whole.text.size(), 6u);
  const std::string stop = whole.text.substr(3, 3);
  v1::GenerateRequest request = Ask("the", 20);
  request.add_stop(stop);
  const Written stopped = Generate(request);
  ASSERT_TRUE(stopped.status.ok());
  EXPECT_EQ(stopped.end.finish_reason(), "stop");
  EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(stop)));
  EXPECT_LT(stopped.end.usage().generated_tokens(), 20);
}

TEST_F(GenerationServiceTest, EchoBeginsWithThePromptAndItsLogprobs) {
  v1::GenerateRequest request = Ask("the cat", 3);
  const Written plain = Generate(request);
  request.set_echo(true);
  const Written echoed = Generate(request);
  EXPECT_EQ(echoed.text, "the cat" + plain.text);
  request.set_logprobs(true);
  request.set_top_logprobs(2);
  const Written scored = Generate(request);
  ASSERT_TRUE(scored.status.ok()) << scored.status.error_message();
  EXPECT_EQ(scored.text, echoed.text);
  ASSERT_EQ(Ids(scored), Ids(echoed));
  for (size_t i = 0; i < scored.tokens.size(); ++i) {
    const v1::GeneratedToken& token = scored.tokens[i];
    EXPECT_EQ(token.prompt(), i + 3 < scored.tokens.size());
    EXPECT_EQ(token.has_logprob(), i > 0);
    if (i == 0) continue;
    ASSERT_EQ(token.top_size(), 2);
    EXPECT_GE(token.top(0).logprob(), token.top(1).logprob());
    if (!token.prompt()) {
      EXPECT_EQ(token.top(0).id(), token.id());  // Greedy.
    }
  }
}

TEST_F(GenerationServiceTest, APolicyIsReported) {
  v1::GenerateRequest request = Ask("the cat sat on the mat and so on", 10);
  request.mutable_options()->mutable_sparsity()->set_policy("h2o:heavy=0.2,recent=0.2");
  request.mutable_options()->mutable_sparsity()->set_explain(true);
  const Written written = Generate(request);
  ASSERT_TRUE(written.status.ok()) << written.status.error_message();
  const v1::PruningReport& report = written.end.report();
  EXPECT_THAT(report.policy(), HasSubstr("h2o"));
  EXPECT_EQ(report.layers_size(), 3);
  EXPECT_LT(report.kv_held().done(), report.kv_held().dense());
  EXPECT_LT(report.decode().bytes().done(), report.decode().bytes().dense());
  const std::string text = metrics_.Exposition();
  EXPECT_THAT(text, HasSubstr(R"(thresher_kv_held_bytes_total{model="gpt",policy="h2o"} )"));
}

TEST_F(GenerationServiceTest, EachModelDoesWhatItIsFor) {
  v1::GenerateRequest text = Ask("x");
  text.mutable_model()->set_name("encoder");
  ExpectRefused(text, "Generate needs a model for text generation",
                grpc::StatusCode::UNIMPLEMENTED);
  grpc::ClientContext context;
  v1::EmbedRequest embed;
  embed.mutable_model()->set_name("gpt");
  embed.add_inputs()->set_text("x");
  v1::EmbedResponse response;
  const grpc::Status status = thresher_->Embed(&context, embed, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), HasSubstr("'gpt' (GPT2LMHeadModel) is one for text"));
  grpc::ClientContext tokenize_context;
  v1::TokenizeRequest tokenize;
  tokenize.mutable_model()->set_name("gpt");
  tokenize.add_inputs()->set_text("the");
  v1::TokenizeResponse tokens;
  EXPECT_TRUE(thresher_->Tokenize(&tokenize_context, tokenize, &tokens).ok());
}

TEST_F(GenerationServiceTest, ManyTextsAtOnceAreTheSameAsEachAlone) {
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < 12; ++i) {
    requests.push_back(
        Ask(std::string(static_cast<size_t>(1 + i), static_cast<char>('a' + i)), 4 + i % 5));
    if (i % 2 == 0) {
      requests.back().mutable_sampling()->set_temperature(1);
      requests.back().mutable_sampling()->set_seed(static_cast<uint64_t>(i) + 1);
    }
  }
  Hold();
  std::vector<std::future<Written>> together;
  for (const auto& request : requests) {
    together.push_back(std::async(std::launch::async, [&] { return Generate(request); }));
  }
  AwaitWaiting(12);
  Release();
  std::vector<std::vector<int>> ids;
  for (auto& written : together) ids.push_back(Ids(written.get()));
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(ids[i], Ids(Generate(requests[i])));
}

TEST_F(GenerationServiceTest, ACancelledTextEndsAndLeavesNoMemory) {
  Hold();
  grpc::ClientContext context;
  auto call = std::async(std::launch::async, [&] { return Generate(&context, Ask("the", 30)); });
  AwaitWaiting(1);
  context.TryCancel();
  EXPECT_EQ(call.get().status.error_code(), grpc::StatusCode::CANCELLED);
  Release();
  AwaitWaiting(0);
  ASSERT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  EXPECT_EQ(pool_->snapshot().used, 0u);
  EXPECT_EQ(pool_->snapshot().reserved, 0u);
}

TEST_F(GenerationServiceTest, AnUnloadedModelFinishesItsTextsAndTakesNoMore) {
  Hold();
  auto call = std::async(std::launch::async, [&] { return Generate(Ask("the", 5)); });
  AwaitWaiting(1);
  ASSERT_TRUE(repository_->Unload("gpt").ok());
  ExpectRefused(Ask("the"), "unloaded", grpc::StatusCode::UNAVAILABLE);
  Release();
  const Written written = call.get();
  EXPECT_TRUE(written.status.ok()) << written.status.error_message();
  EXPECT_EQ(written.tokens.size(), 5u);
  ASSERT_TRUE(repository_->Load("gpt").ok());
  EXPECT_EQ(Ids(Generate(Ask("the", 5))), Ids(written));
}

TEST_F(GenerationServiceTest, AServerThatDrainsFinishesItsTextsAndTakesNoMore) {
  Hold();
  auto call = std::async(std::launch::async, [&] { return Generate(Ask("the", 5)); });
  AwaitWaiting(1);
  server_->RefuseNewWork();
  scheduler_->StopAccepting();
  ExpectRefused(Ask("the"), "draining", grpc::StatusCode::UNAVAILABLE);
  Release();
  EXPECT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  EXPECT_TRUE(call.get().status.ok());
}

TEST_F(GenerationServiceTest, ATextThatCouldNeverFitTheCacheIsRefused) {
  const auto bytes = [this](int32_t prompt, int32_t tokens) {
    return (*repository_->Find("gpt", ""))->generator->engine().CacheBytes(nullptr, prompt, tokens);
  };
  const size_t small = bytes(8, 9);
  ASSERT_LT(small, size_t{1} << 20);
  Start(small);
  ASSERT_TRUE(loaded_.ok()) << loaded_;
  EXPECT_TRUE(Generate(Ask("a", 2)).status.ok());
  v1::GenerateRequest request = Ask("", 8);
  for (int i = 0; i < 30; ++i) request.mutable_prompt()->add_token_ids(5);
  ASSERT_GT(bytes(30, 37), small);
  ExpectRefused(request, "KV cache", grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GenerationServiceTest, AModelThatNoTextCouldFitIsNotLoaded) {
  Start(16);
  EXPECT_EQ(loaded_.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(loaded_.message()), HasSubstr("--kv-cache-bytes"));
}

TEST_F(GenerationServiceTest, APassedDeadlineEndsTheText) {
  Hold();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(20));
  EXPECT_EQ(Generate(&context, Ask("the", 30)).status.error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  Release();
  EXPECT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
}

TEST_F(GenerationServiceTest, ADeadlineIsAskedBeforeThePromptIsRead) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "the ";
  auto request = InferText(text);
  inference::ModelInferResponse response;
  EXPECT_EQ(Infer(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  (*request.mutable_parameters())["timeout"].set_int64_param(1);  // Microsecond.
  EXPECT_EQ(Infer(request, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(GenerationServiceTest, AFullQueueTakesNoPartOfACall) {
  generator_.max_waiting = 2;
  Start(size_t{1} << 30);
  Hold();
  auto first = std::async(std::launch::async, [&] { return Generate(Ask("the", 3)); });
  AwaitWaiting(1);
  v1::ScoreRequest score;
  score.mutable_model()->set_name("gpt");
  for (int i = 0; i < 2; ++i) score.add_inputs()->set_text("the");
  grpc::ClientContext context;
  v1::ScoreResponse response;
  EXPECT_EQ(thresher_->Score(&context, score, &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  auto second = std::async(std::launch::async, [&] { return Generate(Ask("the", 3)); });
  AwaitWaiting(2);
  // The place is asked for before the options are looked at.
  ExpectRefused(Ask("the", 0), "queue is full", grpc::StatusCode::RESOURCE_EXHAUSTED);
  Release();
  EXPECT_TRUE(first.get().status.ok());
  EXPECT_TRUE(second.get().status.ok());
}

TEST_F(GenerationServiceTest, TheInputOfTextsIsBounded) {
  Inference inference(
      {.max_pending_bytes = 8},
      [this](std::string_view name, std::string_view version) {
        return repository_->Find(name, version);
      },
      scheduler_.get(), &metrics_);
  TextGeneration generation(&inference);
  struct Receiver final : TextReceiver {
    bool OnToken(v1::GeneratedToken) override { return true; }
    void OnEnd(absl::StatusOr<v1::GenerateEnd> end) override { ended.set_value(end.status()); }
    std::promise<absl::Status> ended;
  };
  const auto begin = [&](const std::string& prompt) {
    auto receiver = std::make_shared<Receiver>();
    const auto handle = generation.Generate(Ask(prompt, 2), {}, receiver);
    return std::pair(handle.status(), receiver);
  };
  Hold();
  const auto [taken, first] = begin("the t");
  EXPECT_TRUE(taken.ok()) << taken;
  const auto [just, second] = begin("the");  // Just so much.
  EXPECT_TRUE(just.ok()) << just;
  const absl::Status refused = begin("a").first;
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("hold 9 bytes of input"));
  v1::ScoreRequest score;
  score.mutable_model()->set_name("gpt");
  for (int i = 0; i < 3; ++i) score.add_inputs()->add_token_ids(5);
  const auto never = [](const absl::StatusOr<v1::ScoreResponse>&) { ADD_FAILURE(); };
  EXPECT_EQ(generation.Score(score, {}, never).status().code(),
            absl::StatusCode::kResourceExhausted);
  Release();
  EXPECT_TRUE(first->ended.get_future().get().ok());
  EXPECT_TRUE(second->ended.get_future().get().ok());
  const auto [large, last] = begin("the the the");  // Goes alone.
  ASSERT_TRUE(large.ok()) << large;
  EXPECT_TRUE(last->ended.get_future().get().ok());
}

TEST_F(GenerationServiceTest, AScoreTellsTokensOnlyIfAsked) {
  v1::ScoreRequest request;
  request.mutable_model()->set_name("gpt");
  request.add_inputs()->set_text("the the the");
  v1::ScoreResponse sums, tokens;
  grpc::ClientContext first, second;
  ASSERT_TRUE(thresher_->Score(&first, request, &sums).ok());
  request.set_per_token(true);
  ASSERT_TRUE(thresher_->Score(&second, request, &tokens).ok());
  EXPECT_EQ(sums.results(0).tokens_size(), 0);
  EXPECT_EQ(tokens.results(0).tokens_size(), tokens.results(0).scored_tokens());
  EXPECT_EQ(sums.results(0).logprob(), tokens.results(0).logprob());
  EXPECT_EQ(sums.results(0).scored_tokens(), tokens.results(0).scored_tokens());
}

TEST_F(GenerationServiceTest, TextsAreCounted) {
  ASSERT_TRUE(Generate(Ask("the", 8)).status.ok());
  const std::string text = metrics_.Exposition();
  EXPECT_THAT(text, HasSubstr("thresher_generated_tokens_total{model=\"gpt\"} 8\n"));
  EXPECT_THAT(text, HasSubstr("thresher_time_to_first_token_seconds_count{model=\"gpt\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("thresher_inter_token_latency_seconds_count{model=\"gpt\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("thresher_requests_total{method=\"Generate\",model=\"gpt\","
                              "outcome=\"ok\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("thresher_running_texts{model=\"gpt\",version=\"1\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("thresher_kv_cache_used_bytes 0\n"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("method=\"Embed\",model=\"gpt\"")));
}

// ---- Open Inference ----

TEST_F(GenerationServiceTest, AStreamHasAResponseForEachTokenAndALastOne) {
  const Written expected = Generate(Ask("the", 8));
  grpc::ClientContext context;
  const auto stream = inference_->ModelStreamInfer(&context);
  ASSERT_TRUE(stream->Write(InferText("the")));
  std::string text;
  std::vector<int> ids;
  inference::ModelStreamInferResponse response;
  for (bool last = false; !last;) {
    ASSERT_TRUE(stream->Read(&response));
    ASSERT_EQ(response.error_message(), "");
    const auto& part = response.infer_response();
    EXPECT_EQ(part.id(), "7");
    last = part.parameters().at("triton_final_response").bool_param();
    ASSERT_EQ(part.outputs_size(), 2);
    EXPECT_EQ(part.outputs(0).name(), "text");
    text += part.outputs(0).contents().bytes_contents(0);
    EXPECT_EQ(part.outputs(1).name(), "token_ids");
    EXPECT_EQ(part.outputs(1).shape(0), last ? 0 : 1);
    for (const int id : part.outputs(1).contents().int_contents()) ids.push_back(id);
  }
  const auto& facts = response.infer_response().parameters();
  EXPECT_EQ(facts.at("finish_reason").string_param(), "length");
  EXPECT_EQ(facts.at("generated_tokens").int64_param(), 8);
  EXPECT_EQ(facts.at("policy").string_param(), "dense");
  EXPECT_EQ(text, expected.text);
  EXPECT_EQ(ids, Ids(expected));
  // An error is that request's alone.
  auto bad = InferText("the");
  (*bad.mutable_parameters())["max_tokens"].set_string_param("many");
  ASSERT_TRUE(stream->Write(bad));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.error_message(), HasSubstr("max_tokens"));
  stream->WritesDone();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(GenerationServiceTest, ModelInferGivesTheWholeText) {
  v1::GenerateRequest same = Ask("the", 8);
  same.mutable_sampling()->set_temperature(0.9);
  same.mutable_sampling()->set_seed(11);
  const Written expected = Generate(same);
  auto request = InferText("the");
  auto& parameters = *request.mutable_parameters();
  parameters["temperature"].set_double_param(0.9);
  parameters["seed"].set_string_param("11");
  parameters["logprobs"].set_bool_param(true);
  inference::ModelInferResponse response;
  grpc::Status status = Infer(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.outputs_size(), 3);
  EXPECT_EQ(response.outputs(0).contents().bytes_contents(0), expected.text);
  EXPECT_EQ(response.outputs(1).contents().int_contents_size(), 8);
  EXPECT_EQ(response.outputs(2).name(), "logprobs");
  EXPECT_EQ(response.outputs(2).contents().fp32_contents_size(), 8);
  EXPECT_EQ(response.parameters().at("seed").uint64_param(), 11u);

  parameters["stop"].set_string_param("[\"" + expected.text.substr(2, 2) + "\", \"zzz\"]");
  ASSERT_TRUE(Infer(request, &response).ok());
  EXPECT_EQ(response.parameters().at("finish_reason").string_param(), "stop");

  for (const auto& [stop, part] : std::initializer_list<std::pair<std::string, std::string>>{
           {std::string(1 << 20, '['), "has 1048576 bytes"}, {"[]", "an empty list"}}) {
    parameters["stop"].set_string_param(stop);
    status = Infer(request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(part));
  }

  auto two = InferText("a");
  two.mutable_inputs(0)->set_shape(0, 2);
  two.mutable_inputs(0)->mutable_contents()->add_bytes_contents("b");
  status = Infer(two, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("2 prompts in one request"));
}

TEST_F(GenerationServiceTest, MetadataTellTheTensorsAndThePolicyOfTransactions) {
  grpc::ClientContext metadata_context;
  inference::ModelMetadataRequest metadata_request;
  metadata_request.set_name("gpt");
  inference::ModelMetadataResponse metadata;
  ASSERT_TRUE(inference_->ModelMetadata(&metadata_context, metadata_request, &metadata).ok());
  ASSERT_EQ(metadata.inputs_size(), 2);
  EXPECT_THAT(metadata.inputs(0).shape(), ElementsAre(1));
  EXPECT_THAT(metadata.inputs(1).shape(), ElementsAre(1, -1));
  ASSERT_EQ(metadata.outputs_size(), 3);
  EXPECT_EQ(metadata.properties().at("task"), "text generation");
  EXPECT_EQ(metadata.properties().at("eos_token_ids"), "2");
  for (const bool decoder : {false, true}) {
    grpc::ClientContext context;
    inference::ModelConfigRequest request;
    request.set_name(decoder ? "gpt" : "encoder");
    inference::ModelConfigResponse config;
    ASSERT_TRUE(inference_->ModelConfig(&context, request, &config).ok());
    EXPECT_EQ(config.config().model_transaction_policy().decoupled(), decoder);
    EXPECT_EQ(config.config().max_batch_size() == 0, decoder);
  }
}

}  // namespace
}  // namespace thresher
