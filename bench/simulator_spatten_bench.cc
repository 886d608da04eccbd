// SpAtten modelled, beside what is published of it. The time of each benchmark is the host's, for
// simulating; the counters are the model's. "limit X" is the published X, so that "% of limit"
// reads as measured over published:
//
//   TFLOPS             operations executed over simulated time; the paper: 1.61 on BERT, 0.43 on
//   GPT-2
//                      (means over its tasks and models)
//   GOPS dense         operations of the unpruned layer over simulated time; 360 for SpAtten-1/8
//   reduction fp32 ... bytes of K and V, dense at that width over pruned; 28.9, 14.4 and 10.8
//   refetch %          softmax rows whose K was fetched in full; 7.0 in this trace
//   W                  energy over simulated time; the paper: 8.30
//   UNIT %             of simulated time that the unit works
//   top_k waits %      of simulated time that top-k has nothing to select: layers begin and end,
//   and
//                      K has no room
//   row hits %         of accesses to the memory
//
// Of GPT-2 the traces of one task are public (THRESHER_SHARED_DIR/golden/spatten); without them
// those benchmarks are skipped. BERT's lengths are not public: a curve.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/simulator/accelerator.h"
#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/shapes.h"
#include "backend/device/simulator/simulation.h"
#include "backend/device/simulator/trace/trace.h"
#include "backend/tensor/status.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using benchmark::State;

constexpr char kPruned[] = "golden/spatten/gpt2-small-wikitext2-per8.csv";
constexpr char kUnpruned[] = "golden/spatten/gpt2-small-wikitext2-per8-step1+dedic.csv";

/// Ends a benchmark program that cannot run.
template <typename T>
T Expect(absl::StatusOr<T> value) {
  if (!value.ok()) {
    fmt::print(stderr, "{}\n", Message(value.status()));
    std::exit(1);
  }
  return *std::move(value);
}

/// `room`: twice the K SRAM, and four times as many transactions under way.
std::unique_ptr<Accelerator> Make(const std::string& name, bool room = false) {
  v1::Preset preset = Expect(FindPreset(name));
  if (room) {
    v1::SpAttenSpec& spec = *preset.mutable_spatten();
    spec.set_key_sram_bytes(2 * spec.key_sram_bytes());
    spec.mutable_fetch()->set_outstanding_per_channel(4 * spec.fetch().outstanding_per_channel());
  }
  return Expect(CreateAccelerator(preset));
}

/// The first `steps` steps of a trace; empty if it is not here.
std::vector<LayerRecord> Steps(const char* trace, int64_t steps) {
  const auto path = testing::SharedPath(trace);
  std::vector<LayerRecord> records;
  if (!std::filesystem::exists(path)) return records;
  const auto reader = Expect(TraceReader::Open(path));
  while (static_cast<int64_t>(records.size()) < steps * reader->shape().layers) {
    auto record = Expect(reader->Next());
    if (!record.has_value()) break;
    records.push_back(*std::move(record));
  }
  return records;
}

/// All layers of each step as heads of one, so that no layer waits for the one before it: what the
/// dependence between layers costs is the difference.
std::vector<LayerRecord> WithoutLayers(const std::vector<LayerRecord>& records) {
  std::vector<LayerRecord> steps;
  for (const LayerRecord& record : records) {
    const int32_t layers = record.shape.layers, heads = record.shape.heads;
    if (record.layer == 0) {
      steps.push_back(record);
      steps.back().shape.heads = steps.back().shape.kv_heads = layers * heads;
      steps.back().shape.layers = 1;
      continue;
    }
    for (HeadRecord head : record.sequences[0].heads) {
      head.head += record.layer * heads;
      steps.back().sequences[0].heads.push_back(head);
    }
  }
  return steps;
}

v1::Simulation RunAll(Accelerator& accelerator, const std::vector<LayerRecord>& records) {
  v1::Simulation total;
  accelerator.Reset();
  for (const LayerRecord& record : records) {
    AddSimulation(Expect(accelerator.Run(record, {.attention_only = true})).total, &total);
  }
  return total;
}

double Share(const v1::Simulation& total, const google::protobuf::Map<std::string, double>& cycles,
             const std::string& name) {
  const auto found = cycles.find(name);
  return found == cycles.end() ? 0.0 : 100.0 * found->second / static_cast<double>(total.cycles());
}

void Report(State& state, const v1::Simulation& total) {
  state.counters["TFLOPS"] = total.operations() / total.seconds() / 1e12;
  state.counters["GOPS dense"] = total.operations_dense() / total.seconds() / 1e9;
  state.counters["W"] = total.energy_joules() / total.seconds();
  for (const char* unit : {"qk", "softmax", "top_k", "pv", "dram"}) {
    state.counters[fmt::format("{} %", unit)] = Share(total, total.busy_cycles(), unit);
  }
  state.counters["top_k waits %"] =
      Share(total, total.stall_cycles(), "top_k: waits for probabilities") +
      Share(total, total.stall_cycles(), "top_k: layer ends");
  const v1::DramCounts& dram = total.dram();
  state.counters["row hits %"] =
      100.0 * static_cast<double>(dram.row_hits()) /
      static_cast<double>(dram.row_hits() + dram.row_misses() + dram.row_conflicts());
}

void Limits(State& state, const std::vector<std::pair<std::string, double>>& published) {
  for (const auto& [counter, value] : published) state.counters["limit " + counter] = value;
}

void BM_Gpt2(State& state, const char* preset, const char* trace, int64_t steps, bool layers,
             const std::vector<std::pair<std::string, double>>& published, bool room = false) {
  std::vector<LayerRecord> records = Steps(trace, steps);
  if (records.empty()) {
    state.SkipWithError("the trace is not here");
    return;
  }
  if (!layers) records = WithoutLayers(records);
  const auto accelerator = Make(preset, room);
  v1::Simulation total;
  for (auto _ : state) total = RunAll(*accelerator, records);
  Report(state, total);
  state.counters["reduction fp32"] = total.kv_bytes_dense().fp32() / total.kv_bytes();
  state.counters["reduction fp16"] = total.kv_bytes_dense().fp16() / total.kv_bytes();
  state.counters["reduction int12"] = total.kv_bytes_dense().int12() / total.kv_bytes();
  state.counters["refetch %"] = 100.0 * static_cast<double>(total.refetched_rows()) /
                                static_cast<double>(total.softmax_rows());
  Limits(state, published);
}

const std::vector<std::pair<std::string, double>> kReductions = {
    {"reduction fp32", 28.9}, {"reduction fp16", 14.4}, {"reduction int12", 10.8},
    {"refetch %", 7.0},       {"TFLOPS", 0.43},         {"W", 8.30}};

BENCHMARK_CAPTURE(BM_Gpt2, pruned, "spatten", kPruned, 32, true, kReductions)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Gpt2, pruned_layers_side_by_side, "spatten", kPruned, 32, false,
                  {{"TFLOPS", 0.43}})
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Gpt2, pruned_with_room, "spatten", kPruned, 32, true, {{"TFLOPS", 0.43}}, true)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Gpt2, pruned_with_room_layers_side_by_side, "spatten", kPruned, 32, false,
                  {{"TFLOPS", 0.43}}, true)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Gpt2, unpruned_a_step, "spatten", kUnpruned, 1, true, {})
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Gpt2, eighth_pruned, "spatten-eighth", kPruned, 32, true,
                  {{"GOPS dense", 360.0}})
    ->Unit(benchmark::kMillisecond);

/// A layer of BERT-base, not pruned, in 12 bits as the paper's static quantization has it.
void BM_Bert(State& state, const char* preset,
             const std::vector<std::pair<std::string, double>>& published) {
  LayerRecord record = DenseRecordOf(Expect(ParseShape("bert-base")), state.range(0), 1);
  record.sequences[0].bits = {.query = 12, .key = 12, .value = 12};
  const auto accelerator = Make(preset);
  v1::Simulation total;
  for (auto _ : state) total = RunAll(*accelerator, {record});
  Report(state, total);
  Limits(state, published);
}

BENCHMARK_CAPTURE(BM_Bert, attention, "spatten", {{"TFLOPS", 1.61}, {"W", 8.30}})
    ->ArgName("tokens")
    ->Arg(11)
    ->Arg(16)
    ->Arg(25)
    ->Arg(32)
    ->Arg(39)
    ->Arg(53)
    ->Arg(64)
    ->Arg(128)
    ->Arg(384)
    ->Arg(1024)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Bert, eighth_attention, "spatten-eighth", {{"GOPS dense", 360.0}})
    ->ArgName("tokens")
    ->Arg(64)
    ->Arg(384)
    ->Unit(benchmark::kMillisecond);

/// The same with its linear layers.
void BM_BertLayer(State& state) {
  LayerRecord record = DenseRecordOf(Expect(ParseShape("bert-base")), state.range(0), 1);
  record.sequences[0].bits = {.query = 12, .key = 12, .value = 12};
  const auto accelerator = Make("spatten");
  v1::Simulation total;
  for (auto _ : state) total = Expect(accelerator->Run(record, {})).total;
  Report(state, total);
  state.counters["linear %"] = Share(total, total.busy_cycles(), "linear");
}
BENCHMARK(BM_BertLayer)->ArgName("tokens")->Arg(384)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace thresher
