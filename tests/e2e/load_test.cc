// `thresher load` against a real server: short and gentle, and nothing is asserted of time itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/e2e/server_process.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using testing::Finished;
using testing::ServerProcess;

class LoadTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { server_ = new ServerProcess; }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }

  static std::vector<json> Json(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "load");
    arguments.push_back("--json");
    if (std::ranges::count(arguments, "--warmup") == 0) {
      arguments.insert(arguments.end(), {"--warmup", "100ms"});
    }
    const Finished run = server_->Cli(arguments);
    EXPECT_EQ(run.code, 0) << run.error;
    std::vector<json> lines;
    std::istringstream stream(run.output);
    for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
    return lines;
  }

  static ServerProcess* server_;
};

ServerProcess* LoadTest::server_ = nullptr;

void ExpectAllAnswered(const json& level) {
  EXPECT_GT(level["sent"], 0);
  EXPECT_EQ(level["outcomes"]["ok"], level["sent"]) << level["outcomes"];
  EXPECT_EQ(level["due"], level["sent"]);
  const auto& latency = level["latency"];
  const char* names[] = {"p50", "p90", "p95", "p99", "p999", "max"};
  for (int i = 1; i < 6; ++i) EXPECT_LE(latency[names[i - 1]], latency[names[i]]) << names[i];
  EXPECT_LE(level["goodput"], level["throughput"]);
}

/// The server's own times and the rest are the whole.
void ExpectSplitAddsUp(const json& level) {
  double sum = 0;
  for (const auto& [name, part] : level["split"].items()) {
    ASSERT_TRUE(part.is_number()) << name;
    EXPECT_GE(part, 0) << name;
    sum += part.get<double>();
  }
  const double mean = level["latency"]["mean"];
  EXPECT_NEAR(sum, mean, 0.02 * mean);
  EXPECT_GT(level["split"]["compute"], 0);
}

TEST_F(LoadTest, AClosedLoopIsAnsweredAndSplit) {
  const auto levels = Json({"--concurrency", "2", "--duration", "500ms"});
  ASSERT_EQ(levels.size(), 1u);
  ExpectAllAnswered(levels[0]);
  ExpectSplitAddsUp(levels[0]);
  // Words are tokens in this vocabulary, more or less: 32 and two special ones.
  EXPECT_NEAR(levels[0]["tokens"]["input_mean"], 34, 4);
}

TEST_F(LoadTest, PoissonArrivalsOfOneSeedAreTheSame) {
  const auto one = Json({"--mode", "poisson", "--rate", "50", "--duration", "500ms", "--seed", "7",
                         "--lengths", "lognormal:mean=16,max=64"});
  const auto same = Json({"--mode", "poisson", "--rate", "50", "--duration", "500ms", "--seed", "7",
                          "--lengths", "lognormal:mean=16,max=64"});
  ExpectAllAnswered(one[0]);
  EXPECT_EQ(one[0]["due"], same[0]["due"]);
  EXPECT_EQ(one[0]["tokens"]["input_mean"], same[0]["tokens"]["input_mean"]);
}

TEST_F(LoadTest, TheServerCountsTheSameRequests) {
  const std::string series =
      "thresher_requests_total{method=\"Classify\",model=\"sst2-mini\",outcome=\"ok\"}";
  const double before = server_->Metric(series);
  const auto levels = Json({"--requests", "25", "--warmup", "0s"});
  ExpectAllAnswered(levels[0]);
  EXPECT_EQ(server_->Metric(series) - before, 26);  // And the one that asked first.
}

TEST_F(LoadTest, OpenInferenceNeedsNoMoreThanTheModelsName) {
  const auto levels = Json({"--method", "infer", "--model", "sst2-mini", "--requests", "40",
                            "--concurrency", "2", "--batch", "3"});
  ExpectAllAnswered(levels[0]);
  ExpectSplitAddsUp(levels[0]);
  const auto ids = Json({"--method", "infer", "--model", "sst2-mini", "--requests", "10", "--input",
                         "input_ids", "--input", "attention_mask", "--lengths", "12"});
  ExpectAllAnswered(ids[0]);
  EXPECT_EQ(ids[0]["tokens"]["input_mean"], 12);
}

TEST_F(LoadTest, ASweepDrawsLatencyAndAccuracyAgainstLoad) {
  testing::TempDir directory;
  const std::string report = directory.path() / "sweep.html";
  const auto levels =
      Json({"--data", testing::SourceDir() / "tests/evaluation/reviews.tsv", "--sparsity", "dense",
            "--sparsity", "spatten:final=*", "--shares", "0.5", "--concurrency", "1:2",
            "--requests", "60", "--warmup", "0s", "--report", report});
  ASSERT_EQ(levels.size(), 4u);
  for (const json& level : levels) {
    ExpectAllAnswered(level);
    EXPECT_EQ(level["accuracy"]["n"], 60);
    EXPECT_LE(level["accuracy"]["low"], level["accuracy"]["value"]);
    EXPECT_GE(level["accuracy"]["high"], level["accuracy"]["value"]);
  }
  // Twice over the same thirty examples: the load changes no answer.
  EXPECT_EQ(levels[0]["accuracy"]["value"], levels[1]["accuracy"]["value"]);
  EXPECT_EQ(levels[2]["accuracy"]["value"], levels[3]["accuracy"]["value"]);
  EXPECT_TRUE(std::filesystem::exists(report));
}

TEST_F(LoadTest, TextsThatAreTooLongAreOutcomes) {
  const Finished run =
      server_->Cli({"load", "--lengths", "5000", "--requests", "3", "--warmup", "0s"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.output, ::testing::HasSubstr("3 INVALID_ARGUMENT"));
  const auto levels = Json({"--lengths", "5000", "--requests", "3", "--truncate"});
  ExpectAllAnswered(levels[0]);
}

TEST(LoadOverloadTest, ASmallQueueRefusesAndNothingIsLost) {
  const ServerProcess server({"--model", testing::EmbeddedModel(), "--max-queue", "1"});
  const Finished run = server.Cli({"load", "--mode", "schedule", "--schedule",
                                   (testing::SourceDir() / "tests/e2e/burst.schedule").string(),
                                   "--lengths", "64", "--warmup", "0s", "--json"});
  EXPECT_EQ(run.code, 0) << run.error;
  const json level = json::parse(run.output);
  EXPECT_EQ(level["due"], 200);
  EXPECT_GT(level["outcomes"]["ok"], 0);
  EXPECT_GT(level["outcomes"]["resource_exhausted"], 0);
  EXPECT_EQ(level["outcomes"]["ok"].get<int>() + level["outcomes"]["resource_exhausted"].get<int>(),
            200);
}

}  // namespace
}  // namespace thresher
