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

// The scheduler's own thread observes while others count and scrape.
TEST_F(MetricsTest, ManyThreadsAtOnce) {
  const auto served = *repository_->Find("m", "");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        metrics_.OnRequest("m", Method::kClassify, absl::OkStatus(), kTimes);
        metrics_.OnBatch(*served->engine, 1, 1, 1, absl::Milliseconds(1));
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
