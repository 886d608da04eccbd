#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "backend/scheduler/scheduler.h"
#include "server/generation_metrics.h"
#include "server/model_repository.h"
#include "server/process_metrics.h"
#include "tests/server/tiny_checkpoint.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::HasSubstr;
using testing::ModelAt;
using ::testing::Not;
using testing::OnReference;
using testing::WriteTinyCheckpoint;

constexpr RequestTimes kTimes = {absl::Milliseconds(1), absl::Milliseconds(2),
                                 absl::Milliseconds(4), absl::Milliseconds(8)};

/// The value of a series as it is spelled in the exposition; -1 if it is not there.
double Value(const std::string& exposition, const std::string& series) {
  std::istringstream lines(exposition);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(series + " ")) return std::stod(line.substr(series.size() + 1));
  }
  return -1;
}

class MetricsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteTinyCheckpoint(dir_.path() / "m");
    repository_ = std::make_unique<ModelRepository>(
        OnReference(), std::vector<v1::ModelConfig>{ModelAt("m", dir_.path() / "m")});
    ASSERT_TRUE(repository_->LoadAll().ok());
    metrics_.Watch(&scheduler_, repository_.get());
  }

  testing::TempDir dir_;
  Metrics metrics_;
  Scheduler scheduler_{SchedulerOptions(), &metrics_};
  std::unique_ptr<ModelRepository> repository_;
};

TEST_F(MetricsTest, ARequestIsCountedAndTimed) {
  metrics_.OnRequest("m", Method::kClassify, absl::OkStatus(), kTimes);
  const std::string text = metrics_.Exposition();
  const std::string labels = R"({method="Classify",model="m"})";
  EXPECT_EQ(Value(text, R"(thresher_requests_total{method="Classify",model="m",outcome="ok"})"), 1);
  EXPECT_DOUBLE_EQ(Value(text, "thresher_request_queue_seconds_sum" + labels), 0.001);
  EXPECT_DOUBLE_EQ(Value(text, "thresher_request_tokenize_seconds_sum" + labels), 0.002);
  EXPECT_DOUBLE_EQ(Value(text, "thresher_request_compute_seconds_sum" + labels), 0.004);
  EXPECT_DOUBLE_EQ(Value(text, "thresher_request_total_seconds_sum" + labels), 0.008);
}

TEST_F(MetricsTest, AFailureIsCountedByItsReasonAndNotTimed) {
  const std::vector<std::pair<absl::Status, std::string>> outcomes = {
      {absl::InvalidArgumentError(""), "invalid_argument"},
      {absl::OutOfRangeError(""), "invalid_argument"},
      {absl::NotFoundError(""), "not_found"},
      {absl::ResourceExhaustedError(""), "resource_exhausted"},
      {absl::DeadlineExceededError(""), "deadline_exceeded"},
      {absl::CancelledError(""), "cancelled"},
      {absl::UnavailableError(""), "unavailable"},
      {absl::UnimplementedError(""), "unimplemented"},
      {absl::InternalError(""), "internal"},
      {absl::DataLossError(""), "internal"},
  };
  std::map<std::string, int> expected;
  for (const auto& [status, outcome] : outcomes) {
    metrics_.OnRequest("m", Method::kEmbed, status, kTimes);
    ++expected[outcome];
  }
  const std::string text = metrics_.Exposition();
  for (const auto& [outcome, count] : expected) {
    EXPECT_EQ(Value(text, R"(thresher_requests_total{method="Embed",model="m",outcome=")" +
                              outcome + "\"}"),
              count);
  }
  EXPECT_EQ(Value(text, R"(thresher_request_total_seconds_count{method="Embed",model="m"})"), 0);
}

TEST_F(MetricsTest, ARequestForNoModelIsCountedAsUnknown) {
  metrics_.OnRequest("", Method::kModelInfer, absl::NotFoundError("no model"), {});
  EXPECT_EQ(
      Value(metrics_.Exposition(), R"(thresher_requests_total{method="ModelInfer",model="unknown",)"
                                   R"(outcome="not_found"})"),
      1);
}

TEST_F(MetricsTest, SeriesOfAServedModelBeginAtZero) {
  const std::string text = metrics_.Exposition();
  for (const char* method : {"Classify", "Embed", "Tokenize", "ModelInfer"}) {
    EXPECT_EQ(Value(text, std::string(R"(thresher_requests_total{method=")") + method +
                              R"(",model="m",outcome="ok"})"),
              0)
        << method;
  }
  // Not what its head never answers, nor times that a method never has.
  EXPECT_THAT(text, Not(HasSubstr("method=\"Answer\"")));
  EXPECT_THAT(text, Not(HasSubstr(R"(thresher_request_queue_seconds_count{method="Tokenize")")));
  EXPECT_EQ(Value(text, R"(thresher_batch_sequences_count{model="m"})"), 0);
}

TEST_F(MetricsTest, OneLadderFrom50MicrosecondsTo60Seconds) {
  const std::string text = metrics_.Exposition();
  std::map<std::string, std::vector<double>> ladders;
  const std::regex bucket(R"re((thresher_\w+_seconds)_bucket\{.*le="([0-9.e+-]+)"\})re");
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (!std::regex_search(line, match, bucket)) continue;
    std::vector<double>& ladder = ladders[match[1]];
    const double bound = std::stod(match[2]);
    if (ladder.empty() || bound > ladder.back()) ladder.push_back(bound);
  }
  ASSERT_EQ(ladders.size(), 5);  // queue, tokenize, compute, total, batch_compute.
  for (const auto& [name, ladder] : ladders) {
    EXPECT_EQ(ladder, ladders.begin()->second) << name;
    EXPECT_DOUBLE_EQ(ladder.front(), 50e-6);
    EXPECT_DOUBLE_EQ(ladder.back(), 60);
    for (size_t i = 1; i < ladder.size(); ++i) EXPECT_LE(ladder[i] / ladder[i - 1], 2.0000001);
  }
}

TEST_F(MetricsTest, ABatchBelongsToTheModelOfItsEngine) {
  const auto served = *repository_->Find("m", "");
  metrics_.OnBatch(*served->engine, 3, 40, 50, absl::Milliseconds(5));
  ASSERT_TRUE(repository_->Load("m").ok());  // Another engine, the same model.
  metrics_.OnBatch(*(*repository_->Find("m", ""))->engine, 1, 2, 2, absl::Milliseconds(1));
  metrics_.OnBatch(*served->engine, 1, 8, 8, absl::Milliseconds(1));  // The old one's last.
  const std::string text = metrics_.Exposition();
  EXPECT_EQ(Value(text, R"(thresher_batch_sequences_count{model="m"})"), 3);
  EXPECT_EQ(Value(text, R"(thresher_batch_sequences_sum{model="m"})"), 5);
  EXPECT_EQ(Value(text, R"(thresher_batch_tokens_sum{model="m"})"), 50);
  EXPECT_DOUBLE_EQ(Value(text, R"(thresher_batch_compute_seconds_sum{model="m"})"), 0.007);
}

TEST_F(MetricsTest, AnEngineThatIsNotServedIsNotCounted) {
  auto served = *repository_->Find("m", "");
  ASSERT_TRUE(repository_->Unload("m").ok());
  metrics_.OnBatch(*served->engine, 1, 1, 1, absl::Milliseconds(1));
  EXPECT_THAT(metrics_.Exposition(), Not(HasSubstr("thresher_batch_sequences_count")));
}

TEST_F(MetricsTest, AnUnloadedModelKeepsItsCountersAndLosesItsGauges) {
  metrics_.OnRequest("m", Method::kClassify, absl::OkStatus(), kTimes);
  EXPECT_EQ(Value(metrics_.Exposition(), R"(thresher_model_ready{model="m",version="1"})"), 1);
  EXPECT_GT(Value(metrics_.Exposition(), R"(thresher_model_packed_bytes{model="m",version="1"})"),
            1000);
  ASSERT_TRUE(repository_->Unload("m").ok());
  const std::string text = metrics_.Exposition();
  EXPECT_THAT(text, Not(HasSubstr("thresher_model_ready{")));
  EXPECT_THAT(text, Not(HasSubstr("thresher_model_packed_bytes{")));
  EXPECT_EQ(Value(text, R"(thresher_requests_total{method="Classify",model="m",outcome="ok"})"), 1);
}

TEST_F(MetricsTest, AModelThatCanNotBeLoadedIsNotReady) {
  ModelRepository broken(OnReference(), {ModelAt("x", dir_.path() / "nowhere")});
  EXPECT_FALSE(broken.LoadAll().ok());
  metrics_.Watch(&scheduler_, &broken);
  EXPECT_EQ(Value(metrics_.Exposition(), R"(thresher_model_ready{model="x",version=""})"), 0);
  metrics_.Watch(&scheduler_, repository_.get());
}

TEST_F(MetricsTest, GaugesOfTheServer) {
  metrics_.SetThreads(3, 2.5);
  std::string text = metrics_.Exposition();
  EXPECT_EQ(Value(text, "thresher_threads"), 3);
  EXPECT_EQ(Value(text, "thresher_cpu_quota_cores"), 2.5);
  EXPECT_EQ(Value(text, "thresher_queue_depth"), 0);
  EXPECT_EQ(Value(text, "thresher_queue_oldest_age_seconds"), 0);
  EXPECT_EQ(Value(text, "thresher_running_sequences"), 0);
  EXPECT_THAT(text, ::testing::ContainsRegex("thresher_build_info\\{version=\"[0-9.]+\"[^}]*} 1"));
  EXPECT_GT(Value(text, "process_resident_memory_bytes"), 1e6);
  EXPECT_GE(Value(text, "process_cpu_seconds_total"), 0);
  EXPECT_GT(Value(text, "process_open_fds"), 2);
  EXPECT_GT(Value(text, "process_start_time_seconds"), 1e9);
  metrics_.SetThreads(3, 0);
  EXPECT_THAT(metrics_.Exposition(), Not(HasSubstr("thresher_cpu_quota_cores")));
}

v1::PruningReport Report(int layers) {
  v1::PruningReport report;
  const auto set = [](v1::PruningReport::Amount* amount, int64_t dense, int64_t done) {
    amount->set_dense(dense);
    amount->set_done(done);
  };
  const auto fill = [&](v1::PruningReport::Work* work, int64_t times) {
    set(work->mutable_tokens(), 10 * times, 4 * times);
    set(work->mutable_heads(), 2 * times, 2 * times);
    set(work->mutable_values(), 200 * times, 20 * times);
    set(work->mutable_scores(), 200 * times, 100 * times);
    set(work->mutable_qkv_rows(), 60 * times, 30 * times);
    set(work->mutable_ffn_full_precision(), 10 * times, 1 * times);
    set(work->mutable_bytes(), 1000 * times, 250 * times);
    work->set_softmax_rows(8 * times);
    work->set_refetched_rows(3 * times);
    work->set_predicted_rows(40 * times);
    work->set_predicted_scores(200 * times);
    set(work->mutable_ffn_outputs(), 320 * times, 80 * times);
    work->set_predicted_outputs(240 * times);
  };
  fill(report.mutable_total(), layers);
  for (int l = 0; l < layers; ++l) fill(report.add_layers(), 1);
  return report;
}

TEST_F(MetricsTest, AReportIsCountedByModelPolicyAndKind) {
  metrics_.OnReport("m", "spatten", Report(2));
  v1::PruningReport measured = Report(2);
  measured.set_attention_entropy(1.5);
  measured.set_sink_share(0.25);
  measured.set_sink_heads(0.5);
  measured.set_collapsed_heads(0.125);
  measured.set_overloaded_heads(0.75);
  metrics_.OnReport("m", "spatten", measured);
  metrics_.OnReport("m", "spatten", v1::PruningReport());  // Nothing ran.
  const std::string text = metrics_.Exposition();
  const std::string token = R"({kind="token",model="m",policy="spatten"})";
  EXPECT_EQ(Value(text, "thresher_keep_ratio_count" + token), 2);
  EXPECT_DOUBLE_EQ(Value(text, "thresher_keep_ratio_sum" + token), 0.8);
  EXPECT_EQ(Value(text, R"(thresher_keep_ratio_bucket{kind="token",model="m",policy="spatten",)"
                        R"(le="0.35"})"),
            0);
  EXPECT_EQ(Value(text, R"(thresher_keep_ratio_bucket{kind="token",model="m",policy="spatten",)"
                        R"(le="0.4"})"),
            2);
  EXPECT_EQ(Value(text, "thresher_operations_done_total" + token), 16);
  EXPECT_EQ(Value(text, "thresher_operations_skipped_total" + token), 24);
  const std::string policy = R"({model="m",policy="spatten"})";
  EXPECT_EQ(Value(text, "thresher_kv_fetched_bytes_total" + policy), 1000);
  EXPECT_EQ(Value(text, "thresher_kv_saved_bytes_total" + policy), 3000);
  EXPECT_EQ(Value(text, "thresher_softmax_rows_total" + policy), 32);
  EXPECT_EQ(Value(text, "thresher_refetched_rows_total" + policy), 12);
  EXPECT_EQ(Value(text, "thresher_predicted_rows_total" + policy), 160);
  EXPECT_EQ(Value(text, "thresher_predicted_scores_total" + policy), 800);
  EXPECT_EQ(Value(text, "thresher_predicted_outputs_total" + policy), 960);
  EXPECT_EQ(Value(text, R"(thresher_attention_entropy_nats_count{model="m"})"), 1);
  EXPECT_EQ(Value(text, R"(thresher_attention_entropy_nats_sum{model="m"})"), 1.5);
  EXPECT_EQ(Value(text, R"(thresher_attention_sink_share_sum{model="m"})"), 0.25);
  EXPECT_EQ(Value(text, R"(thresher_attention_sink_heads_share_sum{model="m"})"), 0.5);
  EXPECT_EQ(Value(text, R"(thresher_attention_collapsed_heads_share_sum{model="m"})"), 0.125);
  EXPECT_EQ(Value(text, R"(thresher_attention_overloaded_heads_share_sum{model="m"})"), 0.75);
  EXPECT_THAT(text, Not(HasSubstr("layer=")));
}

TEST_F(MetricsTest, DenseSeriesOfAServedModelBeginAtZero) {
  const std::string text = metrics_.Exposition();
  EXPECT_EQ(Value(text, R"(thresher_keep_ratio_count{kind="value",model="m",policy="dense"})"), 0);
  EXPECT_EQ(Value(text, R"(thresher_attention_sink_share_count{model="m"})"), 0);
}

TEST_F(MetricsTest, LayersAreCountedOnlyWhenAskedFor) {
  Metrics by_layer({.per_layer = true});
  EXPECT_TRUE(by_layer.NextDetail("m").layers);
  EXPECT_FALSE(metrics_.NextDetail("m").layers);
  by_layer.OnReport("m", "fact", Report(3));
  by_layer.OnReport("m", "fact", Report(3));
  const std::string text = by_layer.Exposition();
  EXPECT_EQ(Value(text, R"(thresher_layer_operations_done_total{kind="score",layer="2",model="m",)"
                        R"(policy="fact"})"),
            200);
  EXPECT_EQ(Value(text, R"(thresher_layer_operations_skipped_total{kind="token",layer="0",)"
                        R"(model="m",policy="fact"})"),
            12);
  EXPECT_THAT(text, Not(HasSubstr("layer=\"3\"")));
}

TEST_F(MetricsTest, TheAttentionIsMeasuredInTheFirstOfEachSoManyOfAModel) {
  Metrics third({.attention_every = 3});
  std::vector<bool> measured;
  for (int i = 0; i < 7; ++i) measured.push_back(third.NextDetail("m").distribution);
  EXPECT_THAT(measured, ::testing::ElementsAre(true, false, false, true, false, false, true));
  EXPECT_TRUE(third.NextDetail("other").distribution);
  Metrics never({.attention_every = 0});
  EXPECT_FALSE(never.NextDetail("m").distribution);
}

TEST_F(MetricsTest, ATextsEndIsCountedByModelAndWhatItsCacheDidByPolicyToo) {
  GenerationResult result;
  result.prompt_tokens = 30;
  result.cached_prompt_tokens = 20;
  result.generated_tokens = 5;
  result.report.mutable_decode()->mutable_bytes()->set_dense(1000);
  result.report.mutable_decode()->mutable_bytes()->set_done(300);
  result.report.mutable_kv_held()->set_dense(80);
  result.report.mutable_kv_held()->set_done(60);
  metrics_.TextsOf("m").OnEnd(result, "spatten");
  metrics_.TextsOf("m").OnEnd(result, "spatten");
  const std::string text = metrics_.Exposition();
  EXPECT_EQ(Value(text, R"(thresher_prompt_tokens_total{model="m"})"), 60);
  EXPECT_EQ(Value(text, R"(thresher_cached_prompt_tokens_total{model="m"})"), 40);
  EXPECT_EQ(Value(text, R"(thresher_generated_tokens_total{model="m"})"), 10);
  const std::string policy = R"({model="m",policy="spatten"})";
  EXPECT_EQ(Value(text, "thresher_decode_kv_read_bytes_total" + policy), 600);
  EXPECT_EQ(Value(text, "thresher_decode_kv_saved_bytes_total" + policy), 1400);
  EXPECT_EQ(Value(text, "thresher_kv_held_bytes_total" + policy), 120);
  EXPECT_EQ(Value(text, "thresher_kv_held_saved_bytes_total" + policy), 40);
  EXPECT_EQ(Value(text, R"(thresher_kv_held_bytes_total{model="m",policy="dense"})"), 0);
}

// The scheduler's own thread observes while others count and scrape.
TEST_F(MetricsTest, ManyThreadsAtOnce) {
  const auto served = *repository_->Find("m", "");
  const v1::PruningReport report = Report(1);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 200; ++round) {
        metrics_.OnRequest("m", Method::kClassify, absl::OkStatus(), kTimes);
        metrics_.OnBatch(*served->engine, 1, 1, 1, absl::Milliseconds(1));
        metrics_.NextDetail("m");
        metrics_.OnReport("m", i % 2 == 0 ? "dense" : "spatten", report);
        if (round % 50 == 0) metrics_.Exposition();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string text = metrics_.Exposition();
  EXPECT_EQ(Value(text, R"(thresher_requests_total{method="Classify",model="m",outcome="ok"})"),
            800);
  EXPECT_EQ(Value(text, R"(thresher_batch_sequences_count{model="m"})"), 800);
}

TEST_F(MetricsTest, PromtoolIsSilent) {
  if (std::system("command -v promtool >/dev/null 2>&1") != 0) {
    GTEST_SKIP() << "skipped: needs promtool (Debian package prometheus)";
  }
  metrics_.SetThreads(3, 2.5);
  metrics_.OnRequest("m", Method::kClassify, absl::OkStatus(), kTimes);
  metrics_.OnRequest("m", Method::kAnswer, absl::InvalidArgumentError(""), kTimes);
  metrics_.OnRequest("", Method::kTokenize, absl::NotFoundError(""), kTimes);
  metrics_.OnReport("m", "spatten+fact", Report(2));
  TextSeries& texts = metrics_.TextsOf("m");
  texts.OnStep(2, 1, 30, absl::Milliseconds(5));
  texts.OnFirstToken(absl::Milliseconds(7));
  texts.OnNextToken(absl::Milliseconds(3));
  texts.OnEnd(GenerationResult{.prompt_tokens = 30, .generated_tokens = 2}, "h2o");
  const std::string input = (dir_.path() / "metrics").string();
  const std::string output = (dir_.path() / "promtool").string();
  std::ofstream(input) << metrics_.Exposition();
  EXPECT_EQ(std::system(("promtool check metrics <" + input + " >" + output + " 2>&1").c_str()), 0);
  std::stringstream said;
  said << std::ifstream(output).rdbuf();
  EXPECT_EQ(said.str(), "");
}

TEST(CpuStatTest, BothVersionsOfCgroup) {
  const auto v2 = ParseCpuStat(
      "usage_usec 100\nuser_usec 60\nnr_periods 9\nnr_throttled 4\nthrottled_usec 1500000\n");
  ASSERT_TRUE(v2.has_value());
  EXPECT_EQ(v2->periods, 4);
  EXPECT_DOUBLE_EQ(v2->seconds, 1.5);
  const auto v1 = ParseCpuStat("nr_periods 9\nnr_throttled 4\nthrottled_time 2500000000\n");
  ASSERT_TRUE(v1.has_value());
  EXPECT_DOUBLE_EQ(v1->seconds, 2.5);
  EXPECT_FALSE(ParseCpuStat("usage_usec 100\nuser_usec 60\n").has_value());  // No CPU controller.
  EXPECT_FALSE(ParseCpuStat("").has_value());
  EXPECT_FALSE(ParseCpuStat("nr_throttled x").has_value());
}

}  // namespace
}  // namespace thresher
