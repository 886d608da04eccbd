// `thresher evaluate`: what policies cost in quality, and save in time, on labelled data.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "backend/evaluation/engine_runner.h"
#include "backend/evaluation/sweep.h"
#include "backend/tensor/status.h"
#include "client/cli/command.h"
#include "client/cli/evaluate_text.h"
#include "client/cli/evaluation_flags.h"
#include "client/cli/evaluation_format.h"
#include "client/cli/gnuplot.h"
#include "client/cli/plot.h"
#include "client/cli/progress.h"
#include "client/cli/server_flags.h"
#include "client/cli/server_runner.h"

namespace thresher::cli {
namespace {

struct Flags {
  std::string model;
  std::string version;
  std::string server;  // Empty: in this process.
  SecurityFlags security;
  absl::Duration deadline = absl::Minutes(1);
  CallLimits limits;
  DataFlags data;
  LocalModelFlags local;
  WindowFlags text;  // Of a decoder.
  std::vector<std::string> sparsity;
  std::vector<double> shares = kDefaultShares;
  int rounds = 1;
  std::string csv;
  PlotOptions plot;
  bool attention = false;
  bool json = false;
  bool quiet = false;
};

/// Whatever runs the examples, with what it needs to live.
struct Setup {
  Measure measure = Measure::kAccuracy;
  LabelledData data;
  v1::ModelSpec model;
  std::unique_ptr<client::Client> client;
  std::unique_ptr<Runner> runner;
};

absl::Status SetUpServer(const Flags& flags, std::stop_token stop, Setup* setup) {
  const ServerFlags server = {
      .server = flags.server, .security = flags.security, .deadline = flags.deadline};
  THRESHER_ASSIGN_OR_RETURN(setup->client, Connect(server, stop));
  THRESHER_ASSIGN_OR_RETURN(
      setup->model,
      ChooseModel(*setup->client, {.name = flags.model, .version = flags.version}, stop));
  THRESHER_ASSIGN_OR_RETURN(const auto labels, LabelsOf(*setup->client, setup->model, stop));
  setup->measure =
      flags.data.measure.value_or(labels.size() > 1 ? Measure::kAccuracy : Measure::kSimilarity);
  THRESHER_ASSIGN_OR_RETURN(setup->data, ReadData(flags.data, setup->measure, labels));
  setup->runner =
      std::make_unique<ServerRunner>(*setup->client, setup->model, setup->measure,
                                     labels.size() == 1, setup->data.examples, flags.limits, stop);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<LoadedModel>> LoadModelOf(const Flags& flags) {
  std::error_code code;
  if (!std::filesystem::is_directory(flags.model, code)) {
    return InvalidArgument(
        "--model {}: no such directory; for a model of a running server add --server HOST:PORT",
        flags.model);
  }
  return LoadLocalModel(flags.model, flags.local);
}

absl::Status SetUpLocal(std::shared_ptr<LoadedModel> model, const Flags& flags, Setup* setup) {
  if (flags.data.measure) {
    setup->measure = *flags.data.measure;
  } else {
    THRESHER_ASSIGN_OR_RETURN(setup->measure, MeasureOf(model->info));
  }
  THRESHER_ASSIGN_OR_RETURN(setup->data, ReadData(flags.data, setup->measure, model->info.labels));
  THRESHER_ASSIGN_OR_RETURN(
      setup->runner, EngineRunner::Create(std::move(model), setup->measure, setup->data.examples));
  return absl::OkStatus();
}

absl::Status Plot(const Flags& flags, const Setup& setup, const std::vector<Sweep>& sweeps,
                  const std::vector<PolicyResult>& results) {
  PlotOptions options = flags.plot;
  if (options.title.empty()) {
    const std::filesystem::path model(flags.model);
    options.title =
        fmt::format("{} on {}, {} examples",
                    (model.has_filename() ? model : model.parent_path()).filename().string(),
                    setup.data.name, setup.data.examples.size());
  }
  THRESHER_ASSIGN_OR_RETURN(
      const std::string script,
      PlotScript(results.front(), SeriesFrom<PolicyResult>(sweeps, results), options));
  return Draw(script);
}

absl::Status Evaluate(const Flags& flags, std::stop_token stop) {
  if (!flags.plot.path.empty()) {  // Before the work.
    THRESHER_RETURN_IF_ERROR(PlotScript({}, {}, flags.plot).status());
  }
  std::vector<Sweep> sweeps;
  for (const std::string& sparsity : flags.sparsity) {
    sweeps.push_back({sparsity, PoliciesOf(sparsity, flags.shares)});
  }
  Setup setup;
  if (!flags.server.empty()) {
    THRESHER_RETURN_IF_ERROR(SetUpServer(flags, stop, &setup));
  } else {
    THRESHER_ASSIGN_OR_RETURN(std::shared_ptr<LoadedModel> model, LoadModelOf(flags));
    if (model->decoder != nullptr) {
      if (flags.attention) {
        return InvalidArgument("--attention: {} is a decoder; of encoders alone", flags.model);
      }
      return EvaluateText(
          *model, flags.data.path, flags.data.limit, flags.text, sweeps,
          {.json = flags.json, .quiet = flags.quiet, .csv = flags.csv, .plot = flags.plot}, stop);
    }
    THRESHER_RETURN_IF_ERROR(SetUpLocal(std::move(model), flags, &setup));
  }
  if (flags.attention) setup.runner->MeasureAttention();
  Progress bar(!flags.quiet);
  SweepOptions options;
  options.rounds = flags.rounds;
  options.progress = [&](double passes, int64_t total) {
    const auto examples = static_cast<double>(setup.data.examples.size());
    bar.Update(static_cast<int64_t>(passes * examples), 0, passes / static_cast<double>(total));
    return !stop.stop_requested();
  };
  THRESHER_ASSIGN_OR_RETURN(const std::vector<PolicyResult> results,
                            thresher::Sweep(*setup.runner, setup.measure, setup.data.examples,
                                            PoliciesIn(sweeps), options));
  bar.Hide();
  if (flags.json) {
    for (const PolicyResult& result : results) Print(Dump(ToJson(result)) + "\n");
  } else {
    Print(ToTable(results));
  }
  if (!flags.csv.empty()) THRESHER_RETURN_IF_ERROR(WriteFile(flags.csv, ToCsv(results)));
  if (!flags.plot.path.empty()) THRESHER_RETURN_IF_ERROR(Plot(flags, setup, sweeps, results));
  return OutputStatus();
}

void AddServerFlags(CLI::App& app, Flags& flags) {
  app.add_option("--server", flags.server, "Ask this server instead of running the model here")
      ->check(CheckAddress)
      ->option_text("HOST:PORT")
      ->group("By a server");
  app.add_option("--model-version", flags.version, "Which version; by default the server chooses")
      ->option_text("N")
      ->group("By a server");
  AddDuration(app, "--deadline", flags.deadline, "Time that each call may take (default 1m)")
      ->group("By a server");
  AddCallLimits(app, flags.limits, "By a server");
  AddSecurityFlags(app, flags.security, "By a server");
}

}  // namespace

Command DefineEvaluate(CLI::App& root) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = root.add_subcommand("evaluate", "Measure what policies cost on data");
  app->add_option("--model", flags->model,
                  "A checkpoint's directory, run in this process; with --server a model's name")
      ->option_text("DIR|NAME")
      ->required();
  app->add_option("--sparsity", flags->sparsity,
                  "A policy to measure, after dense; repeat it for more. With * for a share it is "
                  "a sweep: spatten:final=*")
      ->option_text("POLICY")
      ->allow_extra_args(false);
  AddShares(*app, flags->shares);
  app->add_option("--rounds", flags->rounds,
                  "Passes over the data; each policy's fastest counts (default 1)")
      ->check(CLI::Range(1, 1000))
      ->option_text("N");
  app->add_flag(
      "--attention", flags->attention,
      "Measure the attention too, of an encoder: the mean entropy of its rows, heads that "
      "are collapsed, overloaded or rest on the first token; passes get slower by it");
  app->add_flag("--json", flags->json, "Print one JSON object a line for each policy");
  app->add_option("--csv", flags->csv, "Write the table there too")->option_text("FILE");
  app->add_option("--plot", flags->plot.path, "Draw the curves with gnuplot, as .svg or .png")
      ->option_text("FILE");
  app->add_option("--plot-x", flags->plot.x,
                  fmt::format("Against what: {} (default speedup, of a decoder bytes)",
                              fmt::join(PlotAxes(), ", ")))
      ->check(CLI::IsMember(PlotAxes()))
      ->option_text("AXIS");
  app->add_option("--plot-title", flags->plot.title, "Default: model, data and size")
      ->option_text("TEXT");
  app->add_flag("--quiet", flags->quiet, "No progress bar");
  AddDataFlags(*app, flags->data);
  AddLocalModelFlags(*app, flags->local);
  AddWindowFlags(*app, flags->text, "1");
  AddServerFlags(*app, *flags);
  app->footer(
      "LOSS is in points of the metric against dense, AT MOST its upper 95 % bound; KL and COSINE\n"
      "are the drift of the output and of the pooled state from dense; the other shares are work\n"
      "done over dense. Of a decoder: LOSS in nats a token, OVER DENSE against dense, and bytes "
      "of\n"
      "keys and values that its decode steps READ and that it HELD, as shares of dense.\n"
      "docs/quality.md says how to read them, docs/policies.md lists policies.\n"
      "\n"
      "Examples:\n"
      "  thresher evaluate --model models/sst2-mini --data dev.tsv --sparsity spatten:final=0.5\n"
      "  thresher evaluate --model models/sst2-mini --data dev.tsv --plot curve.svg \\\n"
      "      --sparsity 'spatten:final=*' --sparsity 'spatten:final=*,importance=random'\n"
      "  thresher evaluate --server 127.0.0.1:8001 --model sst2-mini --data dev.tsv --json \\\n"
      "      --sparsity fact:topk=0.25\n"
      "  thresher evaluate --model models/stories --data text.txt --sparsity 'spatten:keep=*' \\\n"
      "      --plot perplexity.svg\n");
  return {app, [flags](std::stop_token stop) {
            const absl::Status status = Evaluate(*flags, stop);
            return status.ok() ? kAllAnswered : Fail(status, stop);
          }};
}

}  // namespace thresher::cli
