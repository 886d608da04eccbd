// Modelled accelerators as their users meet them: `thresher simulate`, and a server on `sim:`.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/e2e/server_process.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using testing::Finished;
using ::testing::HasSubstr;
using testing::Process;
using testing::RunProcess;
using testing::ServerProcess;

const std::string kModel = (testing::SourceDir() / "models/sst2-mini").string();

std::vector<json> Lines(const std::string& output) {
  std::vector<json> lines;
  std::istringstream stream(output);
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  return lines;
}

Finished Thresher(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), THRESHER_BINARY);
  return RunProcess(arguments, {});
}

class SimulationTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return (dir_.path() / name).string(); }
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name)) << text;
    return Path(name);
  }
  testing::TempDir dir_;
};

TEST_F(SimulationTest, HasTheKeysThatStay) {
  const Finished run = Thresher({"simulate", "--preset", "spatten", "--shape", "bert-base",
                                 "--tokens", "64", "--batch", "2", "--json"});
  ASSERT_EQ(run.code, 0) << run.error;
  const auto lines = Lines(run.output);
  ASSERT_EQ(lines.size(), 1u);
  const json& all = lines[0];
  for (const char* key :
       {"cycles", "seconds", "dram_bytes", "dram_bytes_dense", "reduction", "refetch_share",
        "energy_joules", "tflops", "tflops_dense_equivalent", "utilization", "row_hit_rate"}) {
    EXPECT_TRUE(all.contains(key)) << key;
  }
  for (const char* width : {"fp32", "fp16", "int12"}) {
    EXPECT_GT(all["dram_bytes_dense"][width], 0) << width;
    EXPECT_GT(all["reduction"][width], 0) << width;
  }
  EXPECT_GT(all["cycles"], 0);
  EXPECT_GT(all["energy_joules"], 0);
  for (const auto& [unit, share] : all["utilization"].items()) {
    EXPECT_GE(share, 0.0) << unit;
    EXPECT_LE(share, 1.0) << unit;
  }
}

TEST_F(SimulationTest, TheSameWorkloadTakesTheSameCyclesOnEveryRun) {
  const std::vector<std::string> arguments = {"simulate",
                                              "--preset",
                                              "spatten",
                                              "--shape",
                                              "bert-base",
                                              "--layers",
                                              "4",
                                              "--tokens",
                                              "100",
                                              "--sparsity",
                                              "spatten:keep=0.5,heads=0.75,values=0.5",
                                              "--json"};
  const Finished first = Thresher(arguments);
  const Finished second = Thresher(arguments);
  ASSERT_EQ(first.code, 0) << first.error;
  json a = Lines(first.output).at(0), b = Lines(second.output).at(0);
  a.erase("host_seconds");
  b.erase("host_seconds");
  EXPECT_EQ(a, b);
}

TEST_F(SimulationTest, PruningIsCheaper) {
  const auto seconds = [&](const std::string& policy) {
    const Finished run =
        Thresher({"simulate", "--preset", "spatten", "--shape", "bert-base", "--layers", "12",
                  "--tokens", "128", "--attention-only", "--sparsity", policy, "--json"});
    EXPECT_EQ(run.code, 0) << run.error;
    return Lines(run.output).at(0)["seconds"].get<double>();
  };
  EXPECT_LT(seconds("spatten:keep=0.5"), 0.8 * seconds("dense"));
}

TEST_F(SimulationTest, ARecordedWorkloadReplaysToTheSameTraffic) {
  const std::string texts = Write("texts.txt", "a gripping , moving film\nnot worth the time\n");
  const std::string trace = Path("trace.csv"), timeline = Path("timeline.json");
  const Finished live = Thresher({"simulate", "--preset", "spatten", "--model", kModel, "--data",
                                  texts, "--sparsity", "spatten:keep=0.6", "--attention-only",
                                  "--record", trace, "--timeline", timeline, "--json"});
  ASSERT_EQ(live.code, 0) << live.error;
  const Finished replay =
      Thresher({"simulate", "--preset", "spatten", "--trace", trace, "--attention-only", "--json"});
  ASSERT_EQ(replay.code, 0) << replay.error;
  const json a = Lines(live.output).at(0), b = Lines(replay.output).at(0);
  EXPECT_EQ(a["sequences"], 2);
  EXPECT_EQ(a["layers"], b["layers"]);
  EXPECT_EQ(a["softmax_rows"], b["softmax_rows"]);
  EXPECT_EQ(a["kv_bytes"], b["kv_bytes"]);
  std::ifstream file(timeline);
  EXPECT_FALSE(json::parse(file)["traceEvents"].empty());
}

TEST_F(SimulationTest, ComparesPresetsOnOneWorkload) {
  const Finished run = Thresher({"simulate", "--compare", "spatten,fact,fusemax", "--shape",
                                 "bert-base", "--tokens", "128", "--json"});
  ASSERT_EQ(run.code, 0) << run.error;
  std::vector<std::string> presets;
  for (const json& line : Lines(run.output)) presets.push_back(line["preset"]);
  EXPECT_EQ(presets, (std::vector<std::string>{"spatten", "fact", "fusemax-cloud"}));
}

TEST_F(SimulationTest, MoreDevicesServeALoadSooner) {
  const Finished run =
      Thresher({"simulate", "--preset", "spatten", "--shape", "bert-base", "--layers", "12",
                "--attention-only", "--arrivals", "poisson:rate=3000,seconds=1,seed=1", "--lengths",
                "lognormal:mean=64,max=256", "--devices", "1,4", "--json"});
  ASSERT_EQ(run.code, 0) << run.error;
  const auto lines = Lines(run.output);
  ASSERT_EQ(lines.size(), 2u);
  for (const json& line : lines) {
    const json& outcomes = line["outcomes"];
    EXPECT_EQ(line["requests"].get<int64_t>(), outcomes["ok"].get<int64_t>() +
                                                   outcomes["resource_exhausted"].get<int64_t>() +
                                                   outcomes["deadline_exceeded"].get<int64_t>());
  }
  EXPECT_LE(lines[1]["latency"]["mean"], lines[0]["latency"]["mean"]);
  EXPECT_LT(lines[1]["utilization"], lines[0]["utilization"]);
}

TEST_F(SimulationTest, SaysWhatIsWrongAndExitsWithTwo) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--preset", "spatten"}, "one of --trace, --shape and --model"},
      {{"--shape", "bert-base"}, "either --preset or --compare"},
      {{"--preset", "spatten", "--shape", "heads=12"}, "head_dim"},
      {{"--preset", "spatten", "--shape", "bert-base", "--sparsity", "sparten:keep=1"}, "sparten"},
      {{"--preset", "spatten", "--shape", "bert-base", "--sparsity", "fact:topk=0.5"},
       "no hardware for the policy 'fact'; it has for: dense, spatten"},
      {{"--preset", "spatten", "--shape", "bert-base", "--tokens", "0"}, "--tokens"},
      {{"--preset", "rated-fact", "--shape", "bert-base"}, "rates of attention alone"},
      {{"--preset", "rated-fact", "--shape", "bert-base", "--attention-only", "--timeline",
        Path("rated.json")},
       "no units to draw a timeline of"},
      {{"--preset", "spatten", "--trace", Write("bad.csv", "iteration_id,layer_id\n0,0\n")},
       "bad.csv"},
      {{"--preset", Write("bad.textproto", "name: 'x'\nspatten { nonsense: 1 }\n"), "--shape",
        "bert-base"},
       "bad.textproto:2"},
  };
  for (const auto& [arguments, message] : cases) {
    std::vector<std::string> all = {"simulate"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const Finished run = Thresher(all);
    EXPECT_EQ(run.code, 2) << run.error;
    EXPECT_THAT(run.error, HasSubstr(message));
  }
  const Finished unknown = Thresher({"simulate", "--preset", "sparten", "--shape", "bert-base"});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.error, HasSubstr("unknown preset 'sparten'"));
  EXPECT_THAT(unknown.error, HasSubstr("spatten"));
}

TEST_F(SimulationTest, AServedAnswerTellsWhatTheModelledHardwareWouldHaveTaken) {
  const std::string traces = Path("traces");
  std::filesystem::create_directories(traces);
  ServerProcess server({"--model", "sst2=" + kModel, "--device", "sim:spatten@reference",
                        "--precision", "f32", "--record-traces", traces});
  ServerProcess plain({"--model", "sst2=" + kModel, "--device", "reference", "--precision", "f32"});
  const auto ask = [](const ServerProcess& at) {
    const Finished run =
        Thresher({"classify", "--server", at.grpc(), "--model", "sst2", "--sparsity",
                  "spatten:keep=0.6", "--json", "a gripping , moving film"});
    EXPECT_EQ(run.code, 0) << run.error;
    return Lines(run.output).at(0);
  };
  const json simulated = ask(server), expected = ask(plain);
  EXPECT_EQ(simulated["scores"], expected["scores"]);
  const json& report = simulated["report"]["simulation"];
  EXPECT_EQ(report["preset"], "spatten");
  EXPECT_GT(report["seconds"], 0.0);
  EXPECT_GT(report["energy_joules"], 0.0);
  EXPECT_GT(report["dram_bytes"], 0.0);
  EXPECT_FALSE(expected["report"].contains("simulation"));
  const std::string metrics = testing::HttpGet(server.http(), "/metrics").body;
  for (const char* series :
       {"thresher_simulated_seconds_sum{model=\"sst2\",preset=\"spatten\"}",
        "thresher_simulated_energy_joules_sum{model=\"sst2\",preset=\"spatten\"}",
        "thresher_simulated_dram_bytes_sum{model=\"sst2\",preset=\"spatten\"}"}) {
    EXPECT_THAT(metrics, HasSubstr(series));
  }
  const Finished refused = Thresher({"classify", "--server", server.grpc(), "--model", "sst2",
                                     "--sparsity", "fact:topk=0.5", "a film"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.error, HasSubstr("has no hardware for the policy 'fact'"));

  server.process().Signal(SIGTERM);  // The trace is finished when the model goes.
  EXPECT_EQ(server.process().Wait(), 0);
  const Finished replay =
      Thresher({"simulate", "--preset", "spatten", "--trace", traces + "/sst2-1.csv", "--json"});
  ASSERT_EQ(replay.code, 0) << replay.error;
  EXPECT_EQ(Lines(replay.output).at(0)["softmax_rows"], report["softmax_rows"]);
}

}  // namespace
}  // namespace thresher
