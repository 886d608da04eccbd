// `thresher simulate`: a workload on modelled accelerators. Asks no server.
#include <fmt/format.h>

#include <fstream>
#include <memory>

#include "backend/device/simulator/chrome_trace.h"
#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/shapes.h"
#include "backend/tensor/status.h"
#include "client/cli/command.h"
#include "client/cli/gnuplot.h"
#include "client/cli/progress.h"
#include "client/cli/server_flags.h"
#include "client/cli/simulation_arrivals.h"
#include "client/cli/simulation_format.h"
#include "client/cli/simulation_plot.h"
#include "client/cli/simulation_workload.h"

namespace thresher::cli {
namespace {

struct Flags {
  std::string preset;
  std::vector<std::string> compare;
  bool list = false;
  // The workload.
  std::string trace, shape;
  int64_t tokens = 384;
  int32_t batch = 1, layers = 0, generate = 0;
  uint64_t seed = 1;
  double refetch = 0.059;
  std::string policy;
  ModelWorkload model;
  ArrivalFlags arrivals;
  // What is told of it.
  bool attention_only = false, json = false, quiet = false;
  std::string record, timeline, plot;
};

/// INVALID_ARGUMENT for flags that contradict each other.
absl::Status Check(const Flags& flags) {
  const int workloads =
      !flags.trace.empty() + !flags.shape.empty() + !flags.model.directory.empty();
  if (workloads != 1) {
    return InvalidArgument("one of --trace, --shape and --model says what is run");
  }
  if (flags.preset.empty() == flags.compare.empty()) {
    return InvalidArgument("either --preset or --compare says on what");
  }
  if (!flags.trace.empty() && !flags.policy.empty()) {
    return InvalidArgument("--sparsity: a trace has been pruned already");
  }
  if (!flags.model.directory.empty() && flags.model.data.empty()) {
    return InvalidArgument("--model wants --data, a file with a text in each line");
  }
  if (!flags.arrivals.arrivals.empty() && (flags.shape.empty() || !flags.compare.empty())) {
    return InvalidArgument("--arrivals goes with --shape and one --preset");
  }
  if (!flags.compare.empty() && (!flags.record.empty() || !flags.timeline.empty())) {
    return InvalidArgument("--record and --timeline go with one --preset");
  }
  return absl::OkStatus();
}

absl::StatusOr<Workload> MakeWorkload(const Flags& flags) {
  Workload workload;
  workload.trace = flags.trace;
  if (!flags.policy.empty()) workload.policy = flags.policy;
  if (!flags.model.directory.empty()) {
    workload.model = std::make_unique<ModelWorkload>(flags.model);
    workload.model->batch = flags.batch;
    if (flags.generate > 0) workload.model->generate = flags.generate;
  }
  if (flags.shape.empty()) return workload;
  auto shape = ParseShape(flags.shape);
  if (!shape.ok()) return Annotate(shape.status(), "--shape");
  workload.shape = std::make_unique<SyntheticOptions>();
  *workload.shape = {.shape = *shape,
                     .tokens = flags.tokens,
                     .batch = flags.batch,
                     .generate = flags.generate,
                     .policy = workload.policy,
                     .refetch_share = flags.refetch,
                     .seed = flags.seed};
  // A named shape is one layer, as the published studies count; one in numbers says how many.
  const bool named = flags.shape.find('=') == std::string::npos;
  if (flags.layers > 0) {
    workload.shape->shape.layers = flags.layers;
  } else if (named) {
    workload.shape->shape.layers = 1;
  }
  return workload;
}

absl::Status WriteTimeline(const std::string& path, const std::string& accelerator,
                           const Timeline& timeline) {
  std::ofstream file(path, std::ios::binary);
  WriteChromeTrace(timeline, accelerator, &file);
  file.close();
  return file ? absl::OkStatus() : FailedPrecondition("{}: can't be written", path);
}

absl::Status ListPresets(bool json) {
  std::vector<std::vector<std::string>> rows = {{"PRESET", "DESCRIPTION"}};
  for (const std::string& name : PresetNames()) {
    THRESHER_ASSIGN_OR_RETURN(const v1::Preset preset, FindPreset(name));
    if (json) {
      Print(Dump(Json{{"name", name}, {"description", preset.description()}}) + "\n");
    } else {
      rows.push_back({name, preset.description()});
    }
  }
  if (!json) Print(Table(rows));
  return OutputStatus();
}

absl::Status RunArrivals(const Flags& flags, const v1::Preset& preset, const Workload& workload,
                         const std::function<bool(double)>& progress) {
  THRESHER_ASSIGN_OR_RETURN(
      const std::vector<FleetSummary> summaries,
      SimulateArrivals(preset, *workload.shape, flags.arrivals, flags.attention_only, progress));
  if (!flags.json) Print(ToTable(summaries));
  for (const FleetSummary& summary : summaries) {
    if (flags.json) Print(Dump(ToJson(summary, preset)) + "\n");
  }
  return OutputStatus();
}

absl::Status RunAll(const Flags& flags, std::stop_token stop) {
  if (flags.list) return ListPresets(flags.json);
  THRESHER_RETURN_IF_ERROR(Check(flags));
  std::vector<v1::Preset> presets;
  for (const std::string& name :
       flags.compare.empty() ? std::vector{flags.preset} : flags.compare) {
    THRESHER_ASSIGN_OR_RETURN(presets.emplace_back(), FindPreset(name));
  }
  THRESHER_ASSIGN_OR_RETURN(const Workload workload, MakeWorkload(flags));
  Progress bar(!flags.quiet);
  double before = 0.0;
  const auto progress = [&](double share) {
    bar.Update(0, 0, (before + share) / static_cast<double>(presets.size()));
    return !stop.stop_requested();
  };
  if (!flags.arrivals.arrivals.empty()) {
    return RunArrivals(flags, presets.front(), workload, progress);
  }
  Timeline timeline;
  SimulationOptions options{.attention_only = flags.attention_only, .progress = progress};
  if (!flags.timeline.empty()) options.timeline = &timeline;
  std::unique_ptr<LayerRecorder> recorder;
  if (!flags.record.empty()) {
    constexpr int64_t kMostBytes = int64_t{16} << 30;
    THRESHER_ASSIGN_OR_RETURN(recorder,
                              LayerRecorder::Create(flags.record, "thresher", kMostBytes));
    options.recorder = recorder.get();
  }
  std::vector<SimulationRun> runs;
  for (const v1::Preset& preset : presets) {
    auto run = Simulate(preset, workload, options);
    if (!run.ok()) return Annotate(run.status(), preset.name());
    runs.push_back(*std::move(run));
    before += 1.0;
  }
  bar.Hide();
  if (flags.json) {
    for (const SimulationRun& run : runs) Print(Dump(ToJson(run)) + "\n");
  } else {
    Print(flags.compare.empty() ? ToText(runs.front()) : ToTable(runs));
  }
  if (recorder != nullptr) THRESHER_RETURN_IF_ERROR(recorder->Finish());
  if (!flags.timeline.empty()) {
    THRESHER_RETURN_IF_ERROR(WriteTimeline(flags.timeline, presets.front().name(), timeline));
    if (timeline.left_out() > 0) {
      fmt::print(stderr, "{}: holds the first {} spans; {} more were left out\n", flags.timeline,
                 timeline.spans().size(), timeline.left_out());
    }
  }
  if (!flags.plot.empty()) {
    const std::string what =
        !flags.trace.empty() ? flags.trace
        : !flags.shape.empty()
            ? fmt::format("{}, {} tokens, batch {}", flags.shape, flags.tokens, flags.batch)
            : flags.model.directory;
    THRESHER_ASSIGN_OR_RETURN(const std::string script, SimulationPlot(runs, flags.plot, what));
    THRESHER_RETURN_IF_ERROR(Draw(script));
  }
  return OutputStatus();
}

void AddWorkloadFlags(CLI::App& app, Flags& flags) {
  constexpr const char* kWhat = "What is run (one of --trace, --shape, --model)";
  app.add_option("--trace", flags.trace, "Replay a workload trace")
      ->option_text("FILE")
      ->group(kWhat);
  app.add_option("--shape", flags.shape,
                 fmt::format("A network's shape with nobody's text in it: {} (one layer, unless "
                             "--layers says more), or heads=12,head_dim=64,layers=12,ffn=3072 with "
                             "hidden=, kv_heads=, ffn_matrices=, causal= if need be",
                             NamesOfShapes()))
      ->option_text("SHAPE")
      ->group(kWhat);
  app.add_option("--model", flags.model.directory,
                 "A checkpoint's directory, run in this process on the texts of --data")
      ->option_text("DIR")
      ->group(kWhat);
  app.add_option("--data", flags.model.data, "A text in each line, or a prompt of a decoder")
      ->option_text("FILE")
      ->group(kWhat);
  app.add_option("--limit", flags.model.limit, "Use the first so many lines (default: all)")
      ->check(CLI::PositiveNumber)
      ->option_text("N")
      ->group(kWhat);
  app.add_option("--tokens", flags.tokens, "Of each sequence of a shape (default 384)")
      ->check(CLI::Range(int64_t{1}, kMaxShapeTokens))
      ->option_text("N")
      ->group(kWhat);
  app.add_option("--batch", flags.batch, "Sequences in a batch (default 1)")
      ->check(CLI::Range(1, kMaxShapeBatch))
      ->option_text("N")
      ->group(kWhat);
  app.add_option("--layers", flags.layers, "Layers of a shape")
      ->check(CLI::Range(1, 4096))
      ->option_text("N")
      ->group(kWhat);
  app.add_option(
         "--generate", flags.generate,
         "Decode steps after the prompt, of a causal shape or a decoder (default 0; 16 of a "
         "decoder)")
      ->check(CLI::Range(0, 1 << 20))
      ->option_text("N")
      ->group(kWhat);
  app.add_option("--sparsity", flags.policy, "A policy; `thresher policies` lists them")
      ->option_text("POLICY")
      ->group(kWhat);
  app.add_option("--refetch", flags.refetch,
                 "Share of softmax rows of a shape that are quantised progressively and fetch K's "
                 "lower bits (default 0.059, as SpAtten's paper has it)")
      ->check(CLI::Range(0.0, 1.0))
      ->option_text("SHARE")
      ->group(kWhat);
  app.add_option("--seed", flags.seed, "Of what is drawn for a shape (default 1)")
      ->option_text("N")
      ->group(kWhat);
  app.add_option("--device", flags.model.local.device,
                 "Computes a model's numbers: cpu (default), cpu:onednn or reference")
      ->check(CLI::IsMember({"cpu", "cpu:onednn", "reference"}))
      ->option_text("NAME")
      ->group(kWhat);
  app.add_option("--precision", flags.model.local.precision, "Of a model: f32, bf16 or int8")
      ->option_text("NAME")
      ->group(kWhat);
}

void AddArrivalFlags(CLI::App& app, Flags& flags) {
  constexpr const char* kWhat = "A fleet under load";
  ArrivalFlags& arrivals = flags.arrivals;
  app.add_option("--arrivals", arrivals.arrivals,
                 "Requests of the shape arrive: poisson:rate=1000,seconds=10,seed=1, "
                 "constant:rate=1000,seconds=10, or a file of times in seconds")
      ->option_text("LOAD")
      ->group(kWhat);
  app.add_option("--devices", arrivals.devices,
                 "Modelled devices, each with a scheduler before it; several numbers are compared "
                 "(default 1)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024))
      ->option_text("N,...")
      ->group(kWhat);
  app.add_option("--lengths", arrivals.lengths,
                 "Tokens of each request, such as lognormal:mean=64,max=512 (default: --tokens)")
      ->option_text("DIST")
      ->group(kWhat);
  app.add_option("--max-batch-tokens", arrivals.max_batch_tokens, "Of each device (default 4096)")
      ->check(CLI::PositiveNumber)
      ->option_text("N")
      ->group(kWhat);
  app.add_option("--max-queue", arrivals.max_queue, "Of each device (default 1024)")
      ->check(CLI::PositiveNumber)
      ->option_text("N")
      ->group(kWhat);
  AddDuration(app, "--deadline", arrivals.deadline, "Of each request (default: none)")
      ->group(kWhat);
}

}  // namespace

Command DefineSimulate(CLI::App& root) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = root.add_subcommand("simulate", "Run a workload on a modelled accelerator");
  app->add_option("--preset", flags->preset,
                  "The accelerator: a name, or a file ending in .textproto (see --list)")
      ->option_text("NAME|FILE");
  app->add_option("--compare", flags->compare, "Several, one line each")
      ->delimiter(',')
      ->option_text("PRESET,...");
  app->add_flag("--list", flags->list, "List the presets that come with Thresher");
  app->add_flag("--attention-only", flags->attention_only,
                "Charge attention alone, as most papers do; else the whole layer");
  app->add_flag("--json", flags->json, "Print one JSON object a line for each preset");
  app->add_option("--record", flags->record, "Write the layers that were run as a trace there")
      ->option_text("FILE");
  app->add_option("--timeline", flags->timeline,
                  "Write what each unit did when, in Chrome's trace format (Perfetto opens it)")
      ->option_text("FILE");
  app->add_option("--plot", flags->plot,
                  "Draw the roofline and what units and energy were spent on, as .svg or .png")
      ->option_text("FILE");
  app->add_flag("--quiet", flags->quiet, "No progress bar");
  AddWorkloadFlags(*app, *flags);
  AddArrivalFlags(*app, *flags);
  app->footer(
      "docs/simulator.md says what is modelled and what is not.\n"
      "\n"
      "Examples:\n"
      "  thresher simulate --preset spatten --trace trace.csv\n"
      "  thresher simulate --preset fusemax-cloud --shape bert-base --tokens 16384 --batch 64 \\\n"
      "      --attention-only\n"
      "  thresher simulate --compare spatten,fact,fusemax-cloud --shape bert-base --layers 12 \\\n"
      "      --tokens 128 --plot compare.svg\n"
      "  thresher simulate --preset spatten --model models/sst2-mini --data texts.txt \\\n"
      "      --sparsity spatten:keep=0.5 --timeline spatten.json\n"
      "  thresher simulate --preset spatten --shape bert-base --layers 12 --tokens 128 \\\n"
      "      --arrivals poisson:rate=5000,seconds=10 --devices 1,2,4\n");
  return {app, [flags](std::stop_token stop) {
            const absl::Status status = RunAll(*flags, stop);
            return status.ok() ? kAllAnswered : Fail(status, stop);
          }};
}

}  // namespace thresher::cli
