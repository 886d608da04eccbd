// `thresher calibrate`: the fastest policy that keeps a bound on the quality lost, written beside
// the model for the server to serve.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/evaluation/act_heads.h"
#include "backend/evaluation/calibration.h"
#include "backend/evaluation/elsa_thresholds.h"
#include "backend/evaluation/engine_runner.h"
#include "backend/evaluation/fingerprint.h"
#include "backend/evaluation/profile.h"
#include "backend/tensor/status.h"
#include "client/cli/command.h"
#include "client/cli/evaluation_flags.h"
#include "client/cli/evaluation_format.h"
#include "client/cli/progress.h"
#include "client/cli/server_flags.h"
#include "client/cli/share.h"

namespace thresher::cli {
namespace {

struct Flags {
  std::string model;
  DataFlags data;
  LocalModelFlags local;
  std::vector<std::string> policies = {"spatten"};
  std::vector<std::string> max_loss;
  std::optional<double> confidence;
  double max_kl = kDefaultMaxKl;
  double max_cosine_drift = kDefaultMaxCosineDrift;
  int rounds = 3;
  std::string output;
  bool json = false;
  bool quiet = false;
};

std::string Percent(double share) { return fmt::format("{:.6g} %", 100 * share); }

/// Nothing was measured where there is none: of dense, and of the other kind of drift.
std::string Drift(const std::optional<double>& value) {
  return value ? fmt::format("{:.5f}", *value) : "-";
}

/// Everything that was tried, for people.
std::string StepsTable(const Calibration& calibration) {
  std::vector<std::vector<std::string>> rows = {
      {"TRIED", "LOSS", "AT MOST", "KL", "AT MOST", "1-COSINE", "AT MOST"}};
  for (const CalibrationStep& step : calibration.steps) {
    const Quality& quality = step.quality;
    rows.push_back({Printable(step.policy), Points(quality.loss), Points(quality.loss_upper),
                    Drift(quality.kl), Drift(quality.kl_upper), Drift(1 - quality.cosine),
                    Drift(quality.cosine_drift_upper)});
  }
  return Table(rows);
}

std::string EntriesTable(const v1::SparsityProfile& profile) {
  std::vector<std::vector<std::string>> rows = {
      {"MAX LOSS", "POLICY", "LOSS", "AT MOST", "KL", "1-COSINE", "SPEEDUP"}};
  for (const v1::SparsityProfile::Entry& entry : profile.entries()) {
    const auto drift = [](bool has, double value) {
      return Drift(has ? std::optional(value) : std::nullopt);
    };
    rows.push_back({Percent(entry.max_loss()), Printable(entry.policy()), Points(entry.loss()),
                    Points(entry.loss_upper()), drift(entry.has_kl(), entry.kl()),
                    drift(entry.has_cosine_drift(), entry.cosine_drift()),
                    fmt::format("{:.2f}", entry.speedup())});
  }
  return Table(rows);
}

std::string TooFewText(const v1::SparsityProfile& profile, const Calibration::TooFew& too_few) {
  return fmt::format(
      "{} examples can't promise a loss of at most {}: without a single difference the upper {} "
      "bound would be {}. No promise is written for it; it takes at least {} examples.",
      profile.n(), Percent(too_few.bound), Percent(profile.confidence()), Percent(too_few.least),
      too_few.needed);
}

absl::StatusOr<Measure> MeasureFor(const Flags& flags, const ModelInfo& model) {
  if (flags.data.measure) return *flags.data.measure;
  return MeasureOf(model);
}

/// Learns the thresholds of all rungs of ELSA's ladder, if it is searched.
absl::Status LearnElsa(EngineRunner& runner, const ModelInfo& model, std::stop_token stop,
                       CalibrationOptions* options) {
  if (std::ranges::count(options->ladders, kElsaLadder) == 0) return absl::OkStatus();
  std::vector<double> degrees;
  for (const double share : options->shares) degrees.push_back(ElsaDegree(share));
  const auto learner =
      std::make_shared<const ElsaThresholds>(model.layers, model.heads, std::move(degrees));
  THRESHER_RETURN_IF_ERROR(
      runner.Run(learner, [&](int64_t) { return !stop.stop_requested(); }).status());
  options->rung = [learner, shares = options->shares](std::string_view ladder, double share) {
    if (ladder != kElsaLadder) return WithShare(ladder, share);
    return learner->PolicyOf(
        static_cast<size_t>(std::ranges::find(shares, share) - shares.begin()));
  };
  return absl::OkStatus();
}

bool IsAct(std::string_view policy) { return policy == "act" || policy.starts_with("act:"); }

std::string ActTable(const ActHeads& found) {
  std::vector<std::vector<std::string>> rows = {{"LAYER", "HEAD", "GAIN"}};
  for (const ActHeads::Head& head : found.tried) {
    rows.push_back({std::to_string(head.layer), std::to_string(head.head), Points(head.gain)});
  }
  return Table(rows);
}

Json ActJson(const ActHeads& found, Measure measure) {
  Json heads = Json::array();
  for (const ActHeads::Head& head : found.tried) {
    heads.push_back({{"layer", head.layer}, {"head", head.head}, {"gain", head.gain}});
  }
  return {{"policy", found.policy},
          {"metric", LossMetric(measure)},
          {"dense", found.dense},
          {"together", found.together},
          {"heads", std::move(heads)}};
}

/// ACT saves no work: what is found are heads, not a place in a profile.
absl::StatusOr<int> RunAct(const Flags& flags, std::stop_token stop) {
  if (flags.policies.size() > 1 || !flags.max_loss.empty() || !flags.output.empty()) {
    return InvalidArgument(
        "--policy {}: saves no work, so that it goes with no other policy, no --max-loss and no "
        "--output",
        flags.policies.front());
  }
  Progress bar(!flags.quiet);
  THRESHER_ASSIGN_OR_RETURN(const auto model, LoadLocalModel(flags.model, flags.local));
  THRESHER_ASSIGN_OR_RETURN(const Measure measure, MeasureFor(flags, model->info));
  THRESHER_ASSIGN_OR_RETURN(const LabelledData data,
                            ReadData(flags.data, measure, model->info.labels));
  THRESHER_ASSIGN_OR_RETURN(const auto runner, EngineRunner::Create(model, measure, data.examples));
  SweepOptions options;
  options.progress = [&](double passes, int64_t total) {
    bar.Update(static_cast<int64_t>(passes), 0, passes / static_cast<double>(total));
    return !stop.stop_requested();
  };
  THRESHER_ASSIGN_OR_RETURN(const ActHeads found,
                            FindActHeads(*runner, measure, data.examples, model->info.layers,
                                         model->info.heads, flags.policies.front(), options));
  bar.Hide();
  if (flags.json) {
    Print(Dump(ActJson(found, measure)) + "\n");
  } else {
    Print(ActTable(found) + "\n");
    Print(found.policy.empty()
              ? fmt::format("No head raises the {} of these {} alone.\n", LossMetric(measure),
                            data.examples.size())
              : fmt::format(
                    "Together, on the same {} examples: {} {:.4f} against {:.4f} dense.\n{}\n",
                    data.examples.size(), LossMetric(measure), found.together, found.dense,
                    found.policy));
  }
  THRESHER_RETURN_IF_ERROR(OutputStatus());
  return kAllAnswered;
}

absl::StatusOr<int> Run(const Flags& flags, std::stop_token stop) {
  if (std::ranges::any_of(flags.policies, IsAct)) return RunAct(flags, stop);
  if (flags.max_loss.empty()) return InvalidArgument("--max-loss is required");
  CalibrationOptions options;
  for (const std::string& policy : flags.policies) {
    THRESHER_ASSIGN_OR_RETURN(const auto ladders, LaddersOf(policy));
    for (const std::string& ladder : ladders) {
      if (std::ranges::count(options.ladders, ladder) == 0) options.ladders.push_back(ladder);
    }
  }
  for (const std::string& bound : flags.max_loss) {
    options.bounds.push_back(ParseShare(bound).value_or(0));
  }
  options.max_kl = flags.max_kl;
  options.max_cosine_drift = flags.max_cosine_drift;
  options.confidence = flags.confidence.value_or(options.confidence);
  options.rounds = flags.rounds;
  Progress bar(!flags.quiet);
  int64_t tried = 0;
  std::string last;
  options.progress = [&](std::string_view policy, double share) {
    if (policy != last) {
      last = policy;
      ++tried;
    }
    bar.Update(tried, 0, share);
    return !stop.stop_requested();
  };

  std::error_code code;
  if (!std::filesystem::is_directory(flags.model, code)) {
    return InvalidArgument("--model {}: no such directory", flags.model);
  }
  const std::string output = flags.output.empty()
                                 ? (std::filesystem::path(flags.model) / kProfileFile).string()
                                 : flags.output;
  THRESHER_ASSIGN_OR_RETURN(const auto model, LoadLocalModel(flags.model, flags.local));
  THRESHER_ASSIGN_OR_RETURN(const Measure measure, MeasureFor(flags, model->info));
  THRESHER_ASSIGN_OR_RETURN(const LabelledData data,
                            ReadData(flags.data, measure, model->info.labels));
  THRESHER_ASSIGN_OR_RETURN(const auto runner, EngineRunner::Create(model, measure, data.examples));
  THRESHER_RETURN_IF_ERROR(LearnElsa(*runner, model->info, stop, &options));
  THRESHER_ASSIGN_OR_RETURN(Calibration calibration, Calibrate(*runner, measure, data, options));
  bar.Hide();

  v1::SparsityProfile& profile = calibration.profile;
  const DeviceDescription& device = model->device->description();
  profile.set_precision(std::string(Name(model->info.precision)));
  profile.set_device(fmt::format("{} {}", device.name, device.isa));
  THRESHER_ASSIGN_OR_RETURN(*profile.mutable_model_sha256(), FingerprintModel(flags.model));

  const bool any = profile.entries_size() > 0;
  if (any) {
    absl::Status written = WriteProfile(profile, output);
    if (absl::IsPermissionDenied(written) && flags.output.empty()) {
      return absl::PermissionDeniedError(
          fmt::format("{}\n  the model's directory can't be written to: say another place with "
                      "--output FILE, and put the file there as {}",
                      Message(written), kProfileFile));
    }
    THRESHER_RETURN_IF_ERROR(written);
  }
  if (flags.json) {
    Json json = ToJson(profile);
    if (any) json["output"] = output;
    Print(Dump(json) + "\n");
  } else {
    if (!calibration.steps.empty()) Print(StepsTable(calibration) + "\n");
    if (any) {
      Print(EntriesTable(profile));
      Print(fmt::format(
          "\nWith {} confidence for each bound, examples like these {} lose no more than MAX "
          "LOSS.\nWrote {}\n",
          Percent(profile.confidence()), profile.n(), output));
    }
  }
  THRESHER_RETURN_IF_ERROR(OutputStatus());
  for (const Calibration::TooFew& too_few : calibration.too_few) {
    fmt::print(stderr, "thresher: {}\n", TooFewText(profile, too_few));
  }
  return calibration.too_few.empty() ? kAllAnswered : kSomeFailed;
}

}  // namespace

Command DefineCalibrate(CLI::App& root) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app =
      root.add_subcommand("calibrate", "Find the fastest policy that keeps a quality bound");
  app->add_option("--model", flags->model, "A checkpoint's directory")
      ->option_text("DIR")
      ->required();
  app->add_option("--max-loss", flags->max_loss,
                  "The most quality that may be lost, in points of the metric: 1% or 0.01. Repeat "
                  "it for several bounds")
      ->option_text("X")
      ->check(CheckShare)
      ->allow_extra_args(false);
  app->add_option("--max-kl", flags->max_kl,
                  fmt::format("The most that the output may drift from dense in the mean: KL "
                              "divergence in nats (default {})",
                              kDefaultMaxKl))
      ->check(CLI::PositiveNumber)
      ->option_text("X");
  app->add_option("--max-cosine-drift", flags->max_cosine_drift,
                  fmt::format("The same of embeddings, where similarity is measured: mean of 1 - "
                              "cosine with dense (default {})",
                              kDefaultMaxCosineDrift))
      ->check(CLI::PositiveNumber)
      ->option_text("X");
  AddShare(*app, "--confidence", flags->confidence, "Of each bound's promise (default 95%)")
      ->option_text("X");
  app->add_option(
         "--policy", flags->policies,
         "What is searched: spatten (default), fact, powerbert, ltp, tome, mnnfast, sanger, "
         "elsa, dota, projection, sofa, principal, or a policy's text with * for the share that "
         "falls, ~ for the threshold that rises: "
         "spatten:final=*,heads=0.75. Repeat it for more. Or act alone, or act with keys: finds "
         "the "
         "heads whose calibration raises the metric")
      ->option_text("POLICY")
      ->allow_extra_args(false);
  app->add_option("--rounds", flags->rounds,
                  "Timed passes of the policies to choose from (default 3)")
      ->check(CLI::Range(1, 1000))
      ->option_text("N");
  app->add_option("--output", flags->output,
                  fmt::format("Where to write the profile (default: {} in the model's directory)",
                              kProfileFile))
      ->option_text("FILE");
  app->add_flag("--json", flags->json, "Print the profile as one JSON object");
  app->add_flag("--quiet", flags->quiet, "No progress bar");
  AddDataFlags(*app, flags->data);
  AddLocalModelFlags(*app, flags->local);
  app->footer(
      "Use data that the model was not trained on. A server that loads the model reads the "
      "profile\n"
      "and then serves requests with max_quality_loss. docs/quality.md says what is promised.\n"
      "\n"
      "Examples:\n"
      "  thresher calibrate --model models/sst2-mini --data dev.tsv --max-loss 1% --max-loss 2%\n"
      "  thresher calibrate --model models/sst2-mini --data dev.tsv --max-loss 1% --policy fact\n"
      "  thresher calibrate --model models/sst2-mini --data dev.tsv --policy act:alpha=3\n");
  return {app, [flags](std::stop_token stop) {
            const absl::StatusOr<int> code = Run(*flags, stop);
            return code.ok() ? *code : Fail(code.status(), stop);
          }};
}

}  // namespace thresher::cli
