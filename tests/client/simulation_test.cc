// What simulate prints and draws, and a fleet under a load.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/shapes.h"
#include "backend/tensor/status.h"
#include "client/cli/simulation_arrivals.h"
#include "client/cli/simulation_format.h"
#include "client/cli/simulation_plot.h"
#include "tests/testing/paths.h"

namespace thresher::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

SimulationRun RunOf(const std::string& name) {
  SimulationRun run;
  run.preset.set_name(name);
  run.preset.set_description("a chip");
  run.layers = 3;
  run.sequences = 2;
  run.peak_operations = 1e12;
  run.peak_bandwidth = 1e11;
  v1::Simulation& s = run.total;
  s.set_cycles(2000);
  s.set_seconds(2e-6);
  s.set_dram_bytes(4096);
  s.set_dram_bytes_plain(4000);
  s.set_kv_bytes(1000);
  s.mutable_kv_bytes_dense()->set_fp32(32000);
  s.mutable_kv_bytes_dense()->set_fp16(16000);
  s.mutable_kv_bytes_dense()->set_int12(12000);
  s.set_energy_joules(1e-6);
  (*s.mutable_energy_by_part())["dram"] = 0.75e-6;
  (*s.mutable_energy_by_part())["qk"] = 0.25e-6;
  (*s.mutable_busy_cycles())["qk"] = 500;
  (*s.mutable_busy_cycles())["qk.inner"] = 100;
  (*s.mutable_stall_cycles())["pv: waits for V"] = 250;
  s.set_operations(1e6);
  s.set_operations_dense(4e6);
  s.set_softmax_rows(200);
  s.set_refetched_rows(14);
  s.mutable_dram()->set_row_hits(90);
  s.mutable_dram()->set_row_misses(6);
  s.mutable_dram()->set_row_conflicts(4);
  return run;
}

TEST(SimulationJson, HasTheNamesThatStay) {
  const Json json = ToJson(RunOf("chip"));
  EXPECT_EQ(json["cycles"], 2000);
  EXPECT_EQ(json["seconds"], 2e-6);
  EXPECT_EQ(json["dram_bytes"], 4096);
  EXPECT_EQ(json["dram_bytes_dense"],
            Json({{"fp32", 32000.0}, {"fp16", 16000.0}, {"int12", 12000.0}}));
  EXPECT_EQ(json["reduction"], Json({{"fp32", 32.0}, {"fp16", 16.0}, {"int12", 12.0}}));
  EXPECT_EQ(json["refetch_share"], 0.07);
  EXPECT_EQ(json["energy_joules"], 1e-6);
  EXPECT_DOUBLE_EQ(json["tflops"].get<double>(), 0.5);
  EXPECT_DOUBLE_EQ(json["tflops_dense_equivalent"].get<double>(), 2.0);
  EXPECT_EQ(json["utilization"]["qk"], 0.25);
  EXPECT_EQ(json["row_hit_rate"], 0.9);
}

TEST(SimulationJson, ARatioOfNothingIsNull) {
  const Json json = ToJson(SimulationRun());
  EXPECT_TRUE(json["reduction"]["fp32"].is_null());
  EXPECT_TRUE(json["refetch_share"].is_null());
  EXPECT_TRUE(json["row_hit_rate"].is_null());
  EXPECT_EQ(json["tflops"], 0.0);
}

TEST(SimulationText, ReadsWell) {
  const std::string text = ToText(RunOf("chip"));
  EXPECT_THAT(text, HasSubstr("2.00 us  (2000 cycles)"));
  EXPECT_THAT(text, HasSubstr("a part in 32.0 (fp32), 16.0 (fp16), 12.0 (int12)"));
  EXPECT_THAT(text, HasSubstr("14 of 200 softmax rows, 7.0 %"));
  EXPECT_THAT(text, HasSubstr("90.0 % hits"));
  EXPECT_THAT(text, HasSubstr("pv: waits for V"));
  EXPECT_THAT(text, Not(HasSubstr("area")));  // Not published.
}

SimulationRun RatedRun(const std::string& name) {
  SimulationRun run;
  const auto preset = FindPreset(name);
  EXPECT_TRUE(preset.ok()) << preset.status();
  run.preset = *preset;
  run.total.set_seconds(1e-3);
  run.total.set_cycles(1000000);
  run.total.set_operations_dense(137438953472.0);
  return run;
}

TEST(SimulationTable, RatingsStandOnOneBasisAndSayNothingOfMemoryAndUnits) {
  const SimulationRun runs[] = {RunOf("chip"), RatedRun("rated-fact"), RatedRun("rated-a3")};
  const std::string text = ToTable(runs);
  EXPECT_THAT(text, HasSubstr("RATED, ON ONE BASIS"));
  EXPECT_THAT(text, HasSubstr("296 ms"));
  EXPECT_THAT(text, HasSubstr("622 ms *"));  // Its multipliers are implied.
  EXPECT_THAT(ToTable(std::span(runs, 1)), Not(HasSubstr("RATED")));
  EXPECT_THAT(ToText(runs[1]), Not(HasSubstr("memory")));
}

TEST(SimulationJson, ARatingLeavesOutWhatItCannotSay) {
  const Json json = ToJson(RatedRun("rated-fact"));
  for (const char* name : {"dram_bytes", "kv_bytes", "utilization", "row_hit_rate", "dram"}) {
    EXPECT_FALSE(json.contains(name)) << name;
  }
  const Json& rating = json["rating"];
  EXPECT_NEAR(rating["seconds_on_basis"].get<double>(), 0.2962, 1e-4);
  EXPECT_EQ(rating["multipliers_implied"], false);
  EXPECT_TRUE(rating["gops_per_device_watt"].is_null());
  EXPECT_FALSE(ToJson(RunOf("chip")).contains("rating"));
}

TEST(SimulationPlot, DrawsWholeUnitsAndAllPresets) {
  const SimulationRun runs[] = {RunOf("one"), RunOf("two")};
  const auto script = SimulationPlot(runs, "x.svg", "title");
  ASSERT_TRUE(script.ok()) << script.status();
  EXPECT_THAT(*script, HasSubstr("\"one\" 25\n\"two\" 25\n"));
  EXPECT_THAT(*script, Not(HasSubstr("qk.inner")));
  EXPECT_EQ(SimulationPlot(runs, "x.pdf", "").status().code(), absl::StatusCode::kInvalidArgument);
}

class ArrivalsTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::vector<FleetSummary>> Simulate(const ArrivalFlags& flags) {
    auto preset = FindPreset("spatten");
    EXPECT_TRUE(preset.ok()) << preset.status();
    SyntheticOptions shape{.shape = *ParseShape("heads=2,head_dim=64,layers=2,ffn=512"),
                           .tokens = 64};
    return SimulateArrivals(*preset, shape, flags, true, [](double) { return true; });
  }
};

TEST_F(ArrivalsTest, EveryRequestEndsSomehowAndMoreDevicesAreLessBusy) {
  ArrivalFlags flags;
  flags.arrivals = "poisson:rate=20000,seconds=0.1,seed=3";
  flags.lengths = "uniform:min=16,max=128";
  flags.devices = {1, 3};
  const auto summaries = Simulate(flags);
  ASSERT_TRUE(summaries.ok()) << summaries.status();
  ASSERT_EQ(summaries->size(), 2u);
  for (const FleetSummary& summary : *summaries) {
    EXPECT_NEAR(static_cast<double>(summary.requests), 2000.0, 200.0);
    EXPECT_EQ(summary.requests, summary.answered + summary.refused + summary.late);
    EXPECT_GT(summary.energy_joules, 0.0);
    EXPECT_LE(summary.p50, summary.p99);
    EXPECT_LE(summary.p99, summary.max);
  }
  EXPECT_LT((*summaries)[1].utilization, (*summaries)[0].utilization);
  EXPECT_LE((*summaries)[1].mean, (*summaries)[0].mean);
}

TEST_F(ArrivalsTest, TimesMayComeFromAFile) {
  const testing::TempDir dir;
  const std::string path = (dir.path() / "times").string();
  std::ofstream(path) << "0\n1ms\n0.25\n";
  ArrivalFlags flags;
  flags.arrivals = path;
  const auto summaries = Simulate(flags);
  ASSERT_TRUE(summaries.ok()) << summaries.status();
  EXPECT_EQ(summaries->at(0).requests, 3);
}

TEST_F(ArrivalsTest, SaysWhatIsWrong) {
  const auto message = [&](const std::string& arrivals, const std::string& lengths) {
    ArrivalFlags flags;
    flags.arrivals = arrivals;
    flags.lengths = lengths;
    return Message(Simulate(flags).status());
  };
  EXPECT_THAT(message("poisson", ""), HasSubstr("rate=N"));
  EXPECT_THAT(message("poisson:rate=-1", ""), HasSubstr("rate: '-1'"));
  EXPECT_THAT(message("constant:rate=1,seed=1", ""), HasSubstr("'seed' is none of rate, seconds"));
  EXPECT_THAT(message("poisson:rate=1e9,seconds=1e6", ""), HasSubstr("more than 10000000"));
  EXPECT_THAT(message("poisson:rate=10", "normal:nonsense=1"), HasSubstr("--lengths"));
  EXPECT_THAT(message("/nowhere", ""), HasSubstr("/nowhere"));
}

}  // namespace
}  // namespace thresher::cli
