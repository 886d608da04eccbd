// `thresher load`: puts load on a server and tells how it fared.
#include <fmt/format.h>

#include <algorithm>
#include <future>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "backend/device/cpu_resources.h"
#include "backend/sparsity/policy_text.h"
#include "backend/tensor/status.h"
#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/load_flags.h"
#include "client/cli/load_format.h"
#include "client/cli/load_report_html.h"
#include "client/cli/progress.h"
#include "client/cli/server_runner.h"
#include "client/load/grpc_port.h"
#include "client/load/load_report.h"
#include "client/load/peak_search.h"

namespace thresher::cli {
namespace {

using client::Client;
using load::GrpcPort;
using load::LevelReport;
using load::Method;

/// A model's cumulative times as the server has counted them, for servers whose answers have none.
using Statistics = std::optional<inference::InferStatistics>;

class LoadTest {
 public:
  LoadTest(const LoadFlags& flags, std::stop_token stop)
      : flags_(flags), stop_(stop), progress_(!flags.quiet) {}

  /// What was found is in `report` also when a stop or an error ends it.
  absl::Status Go() {
    THRESHER_RETURN_IF_ERROR(Prepare());
    for (const std::string& policy : policies_) {
      THRESHER_RETURN_IF_ERROR(plan_.mode == load::Mode::kPeak ? SearchPeak(policy)
                                                               : RunLevels(policy));
      if (stop_.stop_requested()) break;
    }
    return absl::OkStatus();
  }

  load::LoadReport& report() { return report_; }

 private:
  absl::Status Prepare() {
    THRESHER_ASSIGN_OR_RETURN(plan_, PlanOf(flags_));
    THRESHER_ASSIGN_OR_RETURN(policies_, PoliciesOf(flags_));
    THRESHER_ASSIGN_OR_RETURN(parts_, PartsOf(flags_, BatchOf(plan_)));
    const auto lengths = load::Lengths::Parse(flags_.lengths);
    if (!lengths.ok()) return Annotate(lengths.status(), "--lengths");
    lengths_ = *lengths;
    THRESHER_ASSIGN_OR_RETURN(texts_, ReadTexts(flags_));
    THRESHER_ASSIGN_OR_RETURN(control_, Connect(flags_.server, stop_));
    for (load::PartOptions& part : parts_) {
      if (!part.model.name().empty()) continue;
      THRESHER_ASSIGN_OR_RETURN(part.model, ChooseModel(*control_, flags_.model, stop_));
    }
    THRESHER_RETURN_IF_ERROR(DiscoverInputs());
    if (!flags_.data.empty()) THRESHER_RETURN_IF_ERROR(ReadLabelled());
    THRESHER_RETURN_IF_ERROR(ConnectAll());
    THRESHER_RETURN_IF_ERROR(Probe());
    Describe();
    return absl::OkStatus();
  }

  /// What the parts of the method infer are made of.
  absl::Status DiscoverInputs() {
    for (load::PartOptions& part : parts_) {
      if (part.method != Method::kInfer) continue;
      inference::ModelMetadataRequest metadata_request;
      metadata_request.set_name(part.model.name());
      metadata_request.set_version(part.model.version());
      THRESHER_ASSIGN_OR_RETURN(auto metadata, control_->Call(metadata_request, {.stop = stop_}));
      // Some servers leave it out.
      metadata.set_name(part.model.name());
      load::InferRequests::Options options = {
          .inputs = {flags_.inputs.begin(), flags_.inputs.end()},
          .lengths = lengths_,
          .largest_id = flags_.largest_id};
      // Only an extension says which inputs may stay away.
      inference::ModelConfigRequest config_request;
      config_request.set_name(part.model.name());
      config_request.set_version(part.model.version());
      if (const auto config = control_->Call(config_request, {.stop = stop_}); config.ok()) {
        for (const auto& input : config->config().input()) {
          if (input.optional()) options.optional.insert(input.name());
        }
      }
      auto requests =
          load::InferRequests::Create(metadata, part.model.version(), std::move(options));
      if (!requests.ok()) return requests.status();
      part.infer = *std::move(requests);
    }
    return absl::OkStatus();
  }

  absl::Status ReadLabelled() {
    THRESHER_ASSIGN_OR_RETURN(const auto labels, LabelsOf(*control_, parts_[0].model, stop_));
    if (labels.size() < 2) {
      return InvalidArgument("--data: model '{}' is no classifier", parts_[0].model.name());
    }
    DataFlags data = {.path = flags_.data};
    data.columns = {
        .text = flags_.file.column, .pair = flags_.file.pair_column, .label = flags_.label_column};
    if (flags_.file.header) data.columns.header = true;
    THRESHER_ASSIGN_OR_RETURN(auto examples, ReadData(data, Measure::kAccuracy, labels));
    for (LabelledExample& example : examples.examples) {
      texts_.push_back({.text = std::move(example.text),
                        .pair = std::move(example.pair),
                        .label = static_cast<int>(example.gold)});
    }
    return absl::OkStatus();
  }

  absl::Status ConnectAll() {
    std::vector<Client*> clients;
    std::vector<std::future<Client::Result<inference::ServerLiveRequest>>> live;
    THRESHER_ASSIGN_OR_RETURN(client::ClientOptions options, ToClientOptions(flags_.server));
    options.retry.max_attempts = 1;
    for (int i = 0; i < flags_.connections; ++i) {
      THRESHER_ASSIGN_OR_RETURN(auto client, Client::Connect(options));
      live.push_back(
          client->CallAsync(inference::ServerLiveRequest(), client::CallOptions{.stop = stop_}));
      clients.push_back(client.get());
      clients_.push_back(std::move(client));
    }
    for (auto& answer : live) {
      const absl::Status status = answer.get().status();
      if (absl::IsUnavailable(status)) return status;
    }
    port_ = std::make_unique<GrpcPort>(std::move(clients), flags_.server.deadline, nullptr);
    return absl::OkStatus();
  }

  std::unique_ptr<load::Workload> MakeWorkload(const std::string& policy,
                                               std::vector<load::PartOptions> parts,
                                               std::unique_ptr<load::Texts> texts) const {
    load::WorkloadOptions options = {.parts = std::move(parts),
                                     .batch = BatchOf(plan_),
                                     .max_tokens = flags_.max_tokens,
                                     .ignore_eos = flags_.ignore_eos,
                                     .seed = plan_.seed};
    options.options.set_truncate(flags_.truncate);
    if (!policy.empty()) options.options.mutable_sparsity()->set_policy(policy);
    if (flags_.max_quality_loss) {
      options.options.mutable_sparsity()->set_max_quality_loss(*flags_.max_quality_loss);
    }
    return std::make_unique<load::Workload>(std::move(options), std::move(texts));
  }

  /// Sends each kind of request once: what can't be answered at all is told before the load.
  absl::Status Probe() {
    for (const std::string& policy : policies_) {
      for (const load::PartOptions& part : parts_) {
        port_->SetWorkload(MakeWorkload(policy, {part}, load::MakeTexts({{.text = "a"}}, 1)));
        const load::RunResult result = RunLoad(*port_, {.max_calls = 1, .stop = stop_});
        for (const auto& [code, message] : result.all.messages) {
          switch (code) {
            case absl::StatusCode::kInvalidArgument:
            case absl::StatusCode::kNotFound:
            case absl::StatusCode::kUnimplemented:
            case absl::StatusCode::kPermissionDenied:
            case absl::StatusCode::kUnauthenticated:
              return absl::Status(code, fmt::format("{} of model '{}': {}", Name(part.method),
                                                    part.model.name(), Printable(message)));
            default:
              break;
          }
        }
      }
    }
    return stop_.stop_requested() ? Cancelled("stopped") : absl::OkStatus();
  }

  void Describe() {
    report_.begun = absl::FormatTime("%Y-%m-%d %H:%M:%S %Ez", absl::Now(), absl::LocalTimeZone());
    report_.server = flags_.server.server;
    report_.mode = plan_.mode;
    report_.bound = plan_.bound;
    for (const load::PartOptions& part : parts_) {
      report_.parts.push_back(fmt::format("{} {}", Name(part.method), part.model.name()));
    }
    const auto metadata = control_->Call(inference::ServerMetadataRequest(), {.stop = stop_});
    if (metadata.ok()) {
      report_.server_version = fmt::format("{} {}", metadata->name(), metadata->version());
    }
  }

  Statistics ReadStatistics() {
    if (parts_.size() != 1 || parts_[0].method != Method::kInfer) return std::nullopt;
    inference::ModelStatisticsRequest request;
    request.set_name(parts_[0].model.name());
    request.set_version(parts_[0].model.version());
    const auto response = control_->Call(request, {.stop = stop_});
    if (!response.ok() || response->model_stats_size() != 1) return std::nullopt;
    return response->model_stats(0).inference_stats();
  }

  /// Splits what is left of the mean latency by what the server counted meanwhile, warm-up
  /// included.
  static void SplitByStatistics(const Statistics& before, const Statistics& after,
                                LevelReport* level) {
    if (!before || !after || level->split.network || level->run.all.ok() == 0) return;
    const auto mean = [](const inference::StatisticDuration& from,
                         const inference::StatisticDuration& to) {
      const uint64_t count = to.count() - from.count();
      if (to.count() <= from.count() || to.ns() < from.ns()) return absl::ZeroDuration();
      return absl::Nanoseconds(static_cast<int64_t>((to.ns() - from.ns()) / count));
    };
    if (after->success().count() <= before->success().count()) return;
    load::Split& split = level->split;
    split.queue = mean(before->queue(), after->queue());
    split.tokenize = mean(before->compute_input(), after->compute_input());
    split.compute = mean(before->compute_infer(), after->compute_infer()) +
                    mean(before->compute_output(), after->compute_output());
    const absl::Duration total = std::max(mean(before->success(), after->success()),
                                          *split.queue + *split.tokenize + *split.compute);
    split.other = total - *split.queue - *split.tokenize - *split.compute;
    split.network =
        std::max(level->run.all.latency.mean() - split.client - total, absl::ZeroDuration());
  }

  /// Runs one level and adds it to the report.
  void RunLevel(const std::string& policy, const load::Level& level) {
    std::unique_ptr<load::Texts> texts = texts_.empty() ? load::MakeTexts(lengths_, plan_.seed)
                                                        : load::MakeTexts(texts_, plan_.seed);
    port_->SetWorkload(MakeWorkload(policy, parts_, std::move(texts)));
    load::PreparedLevel prepared = load::Prepare(plan_, level);
    prepared.options.parts = static_cast<int>(parts_.size());
    prepared.options.cpus = cpus_;
    prepared.options.stop = stop_;
    const std::string name =
        policy.empty() ? level.name : fmt::format("{}, {}", level.name, policy);
    prepared.options.show = [&](const load::LiveView& view) {
      progress_.UpdateLine(LiveLine(name, view));
    };
    if (prepared.separate_warmup > absl::ZeroDuration()) {
      RunLoad(*port_, {.duration = prepared.separate_warmup, .stop = stop_});
    }
    const Statistics before = ReadStatistics();
    LevelReport found = {.sparsity = policy, .level = level};
    found.run = RunLoad(*port_, prepared.options);
    found.split = found.run.all.MeanSplit();
    SplitByStatistics(before, ReadStatistics(), &found);
    found.limits = LimitsOf(found.run.generator, found.run.all.latency);
    found.scenario = ScenarioOf(plan_, level, found.run);
    report_.levels.push_back(std::move(found));
    progress_.Hide();
    if (flags_.server.json) {
      Print(Dump(ToJson(report_, report_.levels.back())) + "\n");
      OutputStatus().IgnoreError();  // Flushes; told at the end.
    }
  }

  absl::Status RunLevels(const std::string& policy) {
    for (const load::Level& level : LevelsOf(plan_)) {
      RunLevel(policy, level);
      if (stop_.stop_requested()) break;
    }
    return absl::OkStatus();
  }

  absl::Status SearchPeak(const std::string& policy) {
    load::PeakSearch::Options options = {.precision = plan_.precision};
    if (plan_.rate) options.start = plan_.rate->from;
    if (plan_.rate && !plan_.rate->single()) options.limit = plan_.rate->to;
    load::PeakSearch search(options);
    load::Peak peak = {.sparsity = policy, .ended_by = "limit"};
    while (const auto rate = search.Next()) {
      RunLevel(policy, load::LevelOfRate(*rate));
      const LevelReport& level = report_.levels.back();
      if (level.run.interrupted) return absl::OkStatus();
      const bool kept = level.run.verdict && level.run.verdict->kept;
      if (kept) {
        peak.level = report_.levels.size() - 1;
      } else {
        peak.ended_by = level.limits.empty() ? "server" : "generator";
      }
      search.Report(kept);
    }
    report_.peaks.push_back(peak);
    if (flags_.server.json) Print(Dump(ToJson(report_, peak)) + "\n");
    return absl::OkStatus();
  }

  const LoadFlags& flags_;
  const std::stop_token stop_;
  const int cpus_ = DetectCpuResources().usable();
  Progress progress_;
  load::Plan plan_;
  std::vector<std::string> policies_;
  std::vector<load::PartOptions> parts_;
  load::Lengths lengths_;
  std::vector<load::Text> texts_;
  std::unique_ptr<Client> control_;
  std::vector<std::unique_ptr<Client>> clients_;  // Outlive the port.
  std::unique_ptr<GrpcPort> port_;
  load::LoadReport report_;
};

/// Refusals and missed deadlines are what a load test measures; other errors are a failure.
bool Expected(absl::StatusCode code) {
  return code == absl::StatusCode::kOk || code == absl::StatusCode::kResourceExhausted ||
         code == absl::StatusCode::kDeadlineExceeded;
}

int ExitCode(const load::LoadReport& report) {
  bool answered = false;
  bool kept = !report.bound.has_value();
  for (const LevelReport& level : report.levels) {
    answered |= level.run.all.ok() > 0;
    kept |= level.run.verdict && level.run.verdict->kept;
    for (const auto& [code, count] : level.run.all.outcomes) {
      // A run that gave up has cancelled the rest itself.
      const bool own = level.run.gave_up && code == absl::StatusCode::kCancelled;
      if (!Expected(code) && !own) return kSomeFailed;
    }
  }
  return answered && kept ? kAllAnswered : kSomeFailed;
}

/// The command as it could be typed again, for the report.
std::string CommandLine(const CLI::App& app) {
  std::string line = "thresher load";
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() == 0 || option->get_name().find("help") != std::string::npos) continue;
    const auto results = option->results();
    if (option->get_items_expected_max() == 0) {
      line += " " + option->get_name();
      continue;
    }
    for (const std::string& value : results) {
      const bool plain = value.find_first_not_of(
                             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                             "-_.,:=/%") == std::string::npos;
      const std::string_view quote = plain ? "" : "'";
      line += fmt::format(" {} {}{}{}", option->get_name(), quote, value, quote);
    }
  }
  return line;
}

int Run(const CLI::App& app, const LoadFlags& flags, std::stop_token stop) {
  LoadTest test(flags, stop);
  const absl::Status status = test.Go();
  load::LoadReport& report = test.report();
  report.command = CommandLine(app);
  if (!status.ok() && report.levels.empty()) return Fail(status, stop);
  if (!flags.server.json) Print(ToText(report));
  for (const absl::Status& written :
       {OutputStatus(), flags.csv.empty() ? absl::OkStatus() : WriteFile(flags.csv, ToCsv(report)),
        flags.report.empty() ? absl::OkStatus() : WriteFile(flags.report, ToHtml(report)),
        status}) {
    if (!written.ok()) return Fail(written, {});
  }
  if (stop.stop_requested()) return Fail(Cancelled("stopped"), stop);
  return ExitCode(report);
}

}  // namespace

Command DefineLoad(CLI::App& root) {
  auto flags = std::make_shared<LoadFlags>();
  CLI::App* app = root.add_subcommand("load", "Load-test a server");
  AddLoadFlags(*app, *flags);
  app->footer(
      "GOOD/S are answers within --bound. Latency counts from when a request was due, also when "
      "it\n"
      "was sent later, or the server stood. docs/load-testing.md says how to read the rest.\n"
      "Exit codes: 0 done, and a bound was kept by some level; 1 no answer, a bound that no level\n"
      "kept, or errors other than overload (RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED); 2 wrong "
      "usage.\n"
      "\n"
      "Examples:\n"
      "  thresher load --concurrency 1:16 --duration 10s --report load.html\n"
      "  thresher load --mode poisson --rate 200 --lengths lognormal:mean=64,max=512 --json\n"
      "  thresher load --mode peak --bound p99=50ms --file texts.txt\n"
      "  thresher load --mode Server --rate 150 --bound p99=130ms\n"
      "  thresher load --method generate --model stories --mode poisson --rate 5 --max-tokens 64\n"
      "  thresher load --mode poisson --rate 50:200:50 --data dev.tsv --sparsity dense \\\n"
      "      --sparsity 'spatten:final=*' --shares 0.7,0.5,0.3 --report sparsity.html\n"
      "  thresher load --server triton:8001 --model bert --method infer --concurrency 8\n");
  return {app, [app, flags](std::stop_token stop) { return Run(*app, *flags, stop); }};
}

}  // namespace thresher::cli
