// `thresher compare`: all policies that a model can have, at the same work.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>

#include "backend/model/files.h"
#include "backend/tensor/status.h"
#include "client/cli/command.h"
#include "client/cli/comparison.h"
#include "client/cli/comparison_format.h"
#include "client/cli/evaluation_flags.h"
#include "client/cli/gnuplot.h"
#include "client/cli/progress.h"
#include "client/cli/server_flags.h"

namespace thresher::cli {
namespace {

constexpr size_t kMaxPageBytes = size_t{16} << 20;

struct Flags {
  ComparisonOptions options;
  std::string markdown, plot;
  bool json = false;
  bool quiet = false;
};

absl::Status WritePage(const std::string& path, const Comparison& comparison) {
  std::string page;
  std::error_code code;
  if (std::filesystem::exists(path, code)) {
    THRESHER_ASSIGN_OR_RETURN(page, ReadFile(path, kMaxPageBytes));
  }
  return WriteFile(path, WithSection(page, comparison));
}

absl::Status RunCompare(const Flags& flags, std::stop_token stop) {
  if (!flags.plot.empty()) {  // Before the work.
    THRESHER_RETURN_IF_ERROR(ComparisonPlotScript({}, flags.plot).status());
  }
  Progress bar(!flags.quiet);
  ComparisonOptions options = flags.options;
  options.progress = [&](const std::string& what, double share) {
    bar.UpdateLine(fmt::format("{:3.0f} % {}", 100 * share, what));
    return !stop.stop_requested();
  };
  THRESHER_ASSIGN_OR_RETURN(const Comparison comparison, Compare(options));
  bar.Hide();
  Print(flags.json ? Dump(ToJson(comparison)) + "\n" : ToTable(comparison));
  if (!flags.markdown.empty()) THRESHER_RETURN_IF_ERROR(WritePage(flags.markdown, comparison));
  if (!flags.plot.empty()) {
    THRESHER_ASSIGN_OR_RETURN(const std::string script,
                              ComparisonPlotScript(comparison, flags.plot));
    THRESHER_RETURN_IF_ERROR(Draw(script));
  }
  return OutputStatus();
}

}  // namespace

Command DefineCompare(CLI::App& root) {
  auto flags = std::make_shared<Flags>();
  ComparisonOptions& options = flags->options;
  options.text.prompt = 0;
  CLI::App* app = root.add_subcommand("compare", "Hold all policies against each other on data");
  app->add_option("--model", options.directory, "A checkpoint's directory, run in this process")
      ->option_text("DIR")
      ->required();
  app->add_option("--save", options.targets,
                  "Shares of the work that each policy is set to save (default 0.5,0.25)")
      ->delimiter(',')
      ->check(CLI::Range(0.01, 0.99))
      ->allow_extra_args(false)
      ->option_text("X,...");
  app->add_option("--rounds", options.rounds,
                  "Timed passes over the data; each policy's fastest counts (default 3)")
      ->check(CLI::Range(1, 1000))
      ->option_text("N");
  app->add_option("--simulate", options.simulated,
                  "So many examples (of a decoder one window) run on each modelled accelerator "
                  "that has hardware for a policy; 0: none (default 8)")
      ->check(CLI::NonNegativeNumber)
      ->option_text("N");
  app->add_flag("--json", flags->json, "Print one JSON object");
  app->add_option("--markdown", flags->markdown,
                  "Write the model's part of this page, or begin the page")
      ->option_text("FILE");
  app->add_option("--plot", flags->plot, "Draw drift against speed with gnuplot, as .svg or .png")
      ->option_text("FILE");
  app->add_flag("--quiet", flags->quiet, "No progress line");
  AddDataFlags(*app, options.data);
  AddLocalModelFlags(*app, options.local);
  AddWindowFlags(*app, options.text, "half of the window");
  app->footer(
      "Each policy is set to save the same share of the attention's work (of a decoder: of the\n"
      "bytes of K and V that decode steps read), by turning one of its keys. Beside them run\n"
      "controls that drop by chance, and the most important first. docs/comparison.md is what\n"
      "this command writes, and says how to read it.\n"
      "\n"
      "Examples:\n"
      "  thresher compare --model models/sst2-mini --data dev.tsv\n"
      "  thresher compare --model models/stories --data text.txt --limit 20 --plot stories.svg\n");
  return {app, [flags](std::stop_token stop) {
            const absl::Status status = RunCompare(*flags, stop);
            return status.ok() ? kAllAnswered : Fail(status, stop);
          }};
}

}  // namespace thresher::cli
