// `thresher load` as a process, against a server in this one: what it prints, writes and refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/client/fake_server.h"
#include "tests/e2e/process.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using testing::FakeServer;
using testing::Finished;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::RunProcess;

class LoadCommandTest : public ::testing::Test {
 protected:
  Finished Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {THRESHER_BINARY, "load", "--server", server_.address()});
    return RunProcess(arguments, {.environment = {"LC_ALL=C"}});
  }
  /// A short run; its objects.
  std::vector<json> Json(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--warmup", "0s", "--json"});
    const Finished run = Run(arguments);
    EXPECT_EQ(run.code, 0) << run.error << run.output;
    std::vector<json> lines;
    std::istringstream stream(run.output);
    for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
    return lines;
  }
  std::string File(const std::string& name, const std::string& text) {
    const std::string path = directory_.path() / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  std::string Read(const std::string& name) {
    std::ostringstream text;
    text << std::ifstream(directory_.path() / name).rdbuf();
    return text.str();
  }
  std::string Path(const std::string& name) { return directory_.path() / name; }

  testing::TempDir directory_;
  FakeServer server_;
};

void ExpectNothingLost(const json& level) {
  int64_t outcomes = 0;
  for (const auto& [name, count] : level["outcomes"].items()) outcomes += count.get<int64_t>();
  EXPECT_EQ(outcomes, level["sent"]);
  EXPECT_EQ(level["due"], level["sent"].get<int64_t>() + level["dropped"].get<int64_t>());
}

TEST_F(LoadCommandTest, AnObjectHasTheKeysThatStay) {
  const auto levels = Json({"--requests", "70", "--concurrency", "2"});
  ASSERT_EQ(levels.size(), 1u);
  const json& level = levels[0];
  for (const char* key : {"offered_rate", "throughput", "goodput", "latency", "split", "outcomes",
                          "confidence", "generator_limited"}) {
    EXPECT_TRUE(level.contains(key)) << key;
  }
  for (const char* key : {"p50", "p90", "p95", "p99", "p999", "max", "mean"}) {
    EXPECT_GT(level["latency"][key], 0) << key;
  }
  for (const char* key : {"client", "network", "queue", "tokenize", "compute"}) {
    EXPECT_TRUE(level["split"].contains(key)) << key;
  }
  EXPECT_EQ(level["outcomes"]["ok"], 70);
  EXPECT_EQ(level["outcomes"]["resource_exhausted"], 0);
  EXPECT_EQ(level["outcomes"]["deadline_exceeded"], 0);
  EXPECT_EQ(level["concurrency"], 2);
  EXPECT_EQ(level["confidence"]["level"], 0.99);
  EXPECT_GT(level["confidence"]["p90"]["at_most"], 0);
  EXPECT_EQ(level["confidence"]["p99"]["at_most"], nullptr);
  EXPECT_EQ(level["confidence"]["p99"]["needed"], 662);
  EXPECT_EQ(server_.calls, 71);  // One tells whether it can be answered at all.
  ExpectNothingLost(level);
}

TEST_F(LoadCommandTest, AConcurrencyRangeIsALevelEach) {
  const auto levels = Json({"--requests", "20", "--concurrency", "1:4"});
  ASSERT_EQ(levels.size(), 3u);
  for (const json& level : levels) ExpectNothingLost(level);
  EXPECT_EQ(levels[2]["concurrency"], 4);
}

TEST_F(LoadCommandTest, EveryOpenLoopModeSendsItsSchedule) {
  const auto constant = Json({"--mode", "constant", "--rate", "100", "--duration", "500ms"});
  EXPECT_EQ(constant[0]["due"], 50);
  ExpectNothingLost(constant[0]);
  const auto one = Json({"--mode", "poisson", "--rate", "100", "--duration", "500ms"});
  const auto same = Json({"--mode", "poisson", "--rate", "100", "--duration", "500ms"});
  EXPECT_EQ(one[0]["due"], same[0]["due"]);
  const std::string times = File("times", "0\n10ms\n0.02\n0.02\n");
  EXPECT_EQ(Json({"--mode", "schedule", "--schedule", times})[0]["outcomes"]["ok"], 4);
  const auto ramp = Json({"--mode", "ramp", "--rate", "20:180", "--duration", "500ms", "--even"});
  EXPECT_EQ(ramp[0]["due"], 50);
  EXPECT_EQ(ramp[0]["timeline"].size(), 5u);
  const auto step =
      Json({"--mode", "step", "--rate", "50:150:50", "--duration", "600ms", "--even"});
  EXPECT_EQ(step[0]["due"], 60);
}

TEST_F(LoadCommandTest, ScenariosTellTheirMetricAndWhetherItIsValid) {
  const auto single = Json({"--mode", "SingleStream", "--requests", "64"});
  EXPECT_TRUE(single[0]["scenario"]["valid"]);
  const auto multi = Json({"--mode", "MultiStream", "--requests", "10"});
  EXPECT_FALSE(multi[0]["scenario"]["valid"]);
  EXPECT_THAT(multi[0]["scenario"]["why"].get<std::string>(), HasSubstr("needs 662"));
  EXPECT_EQ(multi[0]["outcomes"]["ok"], 10);
  const auto server =
      Json({"--mode", "Server", "--rate", "100", "--bound", "p90=10s", "--duration", "1s"});
  EXPECT_EQ(server[0]["due"], server[0]["outcomes"]["ok"]);
  EXPECT_TRUE(server[0]["scenario"]["valid"]);
  EXPECT_EQ(server[0]["scenario"]["value"], 100);
  const auto offline = Json({"--mode", "Offline", "--requests", "100", "--batch", "10"});
  EXPECT_EQ(offline[0]["due"], 10);
  EXPECT_FALSE(offline[0]["scenario"]["valid"]);
}

TEST_F(LoadCommandTest, APeakIsSearchedUpToItsLimit) {
  const auto lines =
      Json({"--mode", "peak", "--rate", "40:80", "--bound", "p90=10s", "--duration", "300ms"});
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0]["rate"], 40);
  EXPECT_EQ(lines[1]["rate"], 80);
  EXPECT_TRUE(lines[1]["bound"]["kept"]);
  EXPECT_EQ(lines[2]["peak"]["rate"], 80);
  EXPECT_EQ(lines[2]["peak"]["ended_by"], "limit");
}

TEST_F(LoadCommandTest, RefusalsAreOutcomesAndNoFailureOfTheTest) {
  std::atomic<int> calls = 0;
  server_.before = [&](FakeServer::Context&) {
    return ++calls % 2 == 0 ? grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full")
                            : grpc::Status::OK;
  };
  const auto levels = Json({"--requests", "20"});
  EXPECT_EQ(levels[0]["outcomes"]["resource_exhausted"], 10);
  EXPECT_EQ(levels[0]["errors"]["resource_exhausted"], "full");
  ExpectNothingLost(levels[0]);
}

TEST_F(LoadCommandTest, OtherErrorsAndBrokenBoundsAreOne) {
  std::atomic<int> calls = 0;
  server_.before = [&](FakeServer::Context&) {
    return ++calls % 5 == 0 ? grpc::Status(grpc::StatusCode::INTERNAL, "broken\x1b[31m")
                            : grpc::Status::OK;
  };
  const Finished run = Run({"--requests", "20", "--warmup", "0s"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.output, HasSubstr("4 INTERNAL: broken [31m"));
  server_.before = nullptr;
  EXPECT_EQ(Run({"--requests", "20", "--warmup", "0s", "--bound", "p50=1us"}).code, 1);
  EXPECT_EQ(Run({"--requests", "20", "--warmup", "0s", "--bound", "p50=10s"}).code, 0);
}

TEST_F(LoadCommandTest, LabelledTextsGiveTheAccuracy) {
  // The fake server always says negative.
  const std::string data = File("data.tsv", "text\tlabel\na\tnegative\nb\tpositive\nc\t0\nd\t0\n");
  const auto levels = Json({"--data", data, "--requests", "40"});
  EXPECT_EQ(levels[0]["accuracy"]["n"], 40);
  EXPECT_EQ(levels[0]["accuracy"]["value"], 0.75);
  EXPECT_LT(levels[0]["accuracy"]["low"], 0.75);
  EXPECT_GT(levels[0]["accuracy"]["high"], 0.75);
}

TEST_F(LoadCommandTest, ASweepOverSparsityIsALevelEach) {
  std::mutex mutex;
  std::set<std::string> policies;
  server_.on_classify = [&](const v1::ClassifyRequest& request) {
    std::lock_guard lock(mutex);
    policies.insert(request.options().sparsity().policy());
  };
  const auto levels = Json({"--requests", "5", "--concurrency", "1:2", "--sparsity", "dense",
                            "--sparsity", "spatten:final=*", "--shares", "0.5,30%"});
  ASSERT_EQ(levels.size(), 6u);
  EXPECT_EQ(levels[0]["sparsity"], "dense");
  EXPECT_EQ(levels[5]["sparsity"], "spatten:final=0.3");
  EXPECT_EQ(policies, (std::set<std::string>{"dense", "spatten:final=0.5", "spatten:final=0.3"}));
}

TEST_F(LoadCommandTest, AMixAndTextsHaveTheirOwnNumbers) {
  const auto levels = Json({"--mix", "classify:m=2,embed:m,generate:m", "--requests", "60",
                            "--connections", "2", "--lengths", "uniform:min=1,max=3"});
  ASSERT_EQ(levels[0]["parts"].size(), 3u);
  int64_t ok = 0;
  for (const json& part : levels[0]["parts"]) ok += part["outcomes"]["ok"].get<int64_t>();
  EXPECT_EQ(ok, 60);
  EXPECT_GT(levels[0]["first_token"]["p99"], 0);
  EXPECT_TRUE(levels[0]["inter_token"].contains("p50"));
}

TEST_F(LoadCommandTest, PeopleGetATableAndWhatIsToBeSaid) {
  const Finished run = Run({"--requests", "100", "--warmup", "0s", "--bound", "p90=10s"});
  EXPECT_EQ(run.code, 0) << run.error;
  for (const char* part : {"LOAD", "ANSWERED/S", "P99.9", "concurrency 1", " = client ",
                           "with 99 % confidence, of 100 requests: at most p50",
                           "bound p90 <= 10.0 s: kept, 0 of 100 late"}) {
    EXPECT_THAT(run.output, HasSubstr(part));
  }
  EXPECT_EQ(run.error, "");
}

TEST_F(LoadCommandTest, AReportIsOnePageThatNeedsNothingElse) {
  const Finished run =
      Run({"--requests", "30", "--warmup", "0s", "--concurrency", "1:2", "--report",
           Path("out.html"), "--csv", Path("out.csv"), "--sparsity", "dense"});
  ASSERT_EQ(run.code, 0) << run.error;
  const std::string html = Read("out.html");
  EXPECT_THAT(html, ::testing::StartsWith("<!DOCTYPE html>"));
  for (const char* part : {"Latency against load", "Latency by percentile", "<svg", "</html>",
                           "Where the mean latency goes", "thresher load", "--sparsity dense"}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
  for (const char* part : {"<script", "http://", "https://", "<link", "nan", "inf "}) {
    EXPECT_THAT(html, Not(HasSubstr(part)));
  }
  const std::string csv = Read("out.csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 3);
  EXPECT_THAT(csv, ::testing::StartsWith("sparsity,load,offered_rate,"));
  EXPECT_THAT(csv, HasSubstr("\n\"dense\",\"concurrency 2\","));
}

TEST_F(LoadCommandTest, HostileFilesAreRefusedWithTheirLine) {
  const auto error = [&](std::vector<std::string> arguments) {
    const Finished run = Run(std::move(arguments));
    EXPECT_EQ(run.code, 2) << run.error;
    return run.error;
  };
  EXPECT_THAT(error({"--file", File("a", "fine\n\xff\xfe\n")}), HasSubstr("line 2: byte 0 is not"));
  EXPECT_THAT(error({"--file", File("b", "")}), HasSubstr("no text in it"));
  EXPECT_THAT(error({"--file", File("c", "one\tcolumn\nonly\n"), "--column", "2"}),
              HasSubstr("line 2: has 1 columns"));
  EXPECT_THAT(error({"--mode", "schedule", "--schedule", File("d", "0\nlater\n")}),
              HasSubstr("line 2: 'later' is not a time"));
  EXPECT_THAT(error({"--data", File("e", "text\tlabel\na\tpositive\nb\tperhaps\n")}),
              HasSubstr("line 3"));
  EXPECT_THAT(error({"--file", Path("none")}), HasSubstr("No such file"));
  EXPECT_THAT(error({"--mode", "schedule", "--schedule", Path("none")}), HasSubstr("No such file"));
  EXPECT_THAT(error({"--mode", "schedule", "--schedule", directory_.path().string()}),
              HasSubstr(directory_.path().string()));
  EXPECT_EQ(server_.calls, 1);  // Only --data asks for the model's labels.
}

TEST_F(LoadCommandTest, WrongUsageIsTwo) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"--mode", "dance"},
                                             {"--rate", "5"},
                                             {"--mode", "poisson"},
                                             {"--mode", "poisson", "--rate", "-5"},
                                             {"--mode", "peak"},
                                             {"--concurrency", "0"},
                                             {"--concurrency", "1:2:3:4"},
                                             {"--bound", "99"},
                                             {"--duration", "10"},
                                             {"--duration", "0s"},
                                             {"--duration", "inf"},
                                             {"--lengths", "zipf"},
                                             {"--method", "dance"},
                                             {"--mix", "dance"},
                                             {"--mode", "MultiStream", "--method", "generate"},
                                             {"--file", "a", "--data", "b"},
                                             {"--column", "2"},
                                             {"--max-in-flight", "0"},
                                             {"--connections", "0"},
                                             {"--sparsity", "dense", "--max-quality-loss", "1%"}}) {
    const Finished run = Run(arguments);
    EXPECT_EQ(run.code, 2) << arguments[0] << " " << arguments[1] << ": " << run.error;
    EXPECT_FALSE(run.error.empty());
  }
  EXPECT_EQ(server_.calls, 0);
}

TEST_F(LoadCommandTest, ARequestThatNobodyCanAnswerIsToldBeforeTheLoad) {
  server_.before = [](FakeServer::Context&) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no such policy");
  };
  const Finished run = Run({"--sparsity", "nonsense"});
  EXPECT_EQ(run.code, 2);
  EXPECT_THAT(run.error, HasSubstr("classify of model 'm': no such policy"));
  EXPECT_EQ(server_.calls, 1);
}

TEST_F(LoadCommandTest, AnInterruptTellsWhatWasMeasured) {
  testing::Process process({THRESHER_BINARY, "load", "--server", server_.address(), "--warmup",
                            "0s", "--duration", "1h", "--json"});
  while (server_.calls < 10) std::this_thread::yield();
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 130);
  const json level = json::parse(process.output());
  EXPECT_TRUE(level["interrupted"]);
  EXPECT_GE(level["outcomes"]["ok"], 5);
  ExpectNothingLost(level);
}

TEST_F(LoadCommandTest, HelpHasExamplesAndTheNamesOfAllModes) {
  const Finished help = RunProcess({THRESHER_BINARY, "load", "--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* part :
       {"--concurrency", "--bound", "--report", "--sparsity", "Examples:\n  thresher load"}) {
    EXPECT_THAT(help.output, HasSubstr(part));
  }
}

}  // namespace
}  // namespace thresher
