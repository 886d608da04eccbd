#include "client/cli/evaluate_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <vector>

#include "backend/model/files.h"
#include "backend/sparsity/report.h"
#include "backend/tensor/status.h"
#include "client/cli/format.h"
#include "client/cli/gnuplot.h"
#include "client/cli/progress.h"

namespace thresher::cli {
namespace {

constexpr size_t kMaxTextBytes = size_t{16} << 20;  // What a tokenizer takes.

double PerToken(int64_t bytes, const PerplexityResult& result) {
  return result.steps > 0 ? static_cast<double>(bytes) / static_cast<double>(result.steps) : 0.0;
}

/// Bytes a token, for people.
std::string Kilobytes(double bytes) { return fmt::format("{:.2f}", bytes / 1e3); }

std::string ToTable(std::span<const PerplexityResult> results) {
  std::vector<std::vector<std::string>> rows = {{"SPARSITY", "PERPLEXITY", "LOSS", "OVER DENSE",
                                                 "KV READ kB/TOKEN", "READ", "HELD", "SCORE",
                                                 "VALUE", "TOKENS/S"}};
  const PerplexityResult& dense = results.front();
  for (const PerplexityResult& result : results) {
    rows.push_back({Printable(result.sparsity), fmt::format("{:.4f}", std::exp(result.loss)),
                    fmt::format("{:.4f} ±{:.4f}", result.loss, result.standard_error),
                    &result == &dense ? "" : fmt::format("{:+.4f}", result.loss - dense.loss),
                    Kilobytes(PerToken(result.decode.bytes().done(), result)),
                    fmt::format("{:.3f}", KeepRatio(result.decode.bytes())),
                    fmt::format("{:.3f}", KeepRatio(result.held)),
                    fmt::format("{:.3f}", KeepRatio(result.decode.scores())),
                    fmt::format("{:.3f}", KeepRatio(result.decode.values())),
                    fmt::format("{:.0f}", static_cast<double>(result.tokens) / result.seconds)});
  }
  return Table(rows);
}

/// As ToJson, objects flattened to name_part; the first line names the columns.
std::string ToCsv(std::span<const PerplexityResult> results) {
  std::string csv;
  for (const PerplexityResult& result : results) {
    std::string names, values;
    const auto add = [&](const std::string& name, const Json& value) {
      const char* const comma = names.empty() ? "" : ",";
      names += comma + name;
      values += comma + value.dump();  // Policies have no quotes in them.
    };
    const Json json = ToJson(result, results.front());  // Outlives its items.
    for (const auto& [name, value] : json.items()) {
      if (!value.is_object()) {
        add(name, value);
        continue;
      }
      for (const auto& [part, number] : value.items()) {
        add(fmt::format("{}_{}", name, part), number);
      }
    }
    if (csv.empty()) csv = names + "\n";
    csv += values + "\n";
  }
  return csv;
}

}  // namespace

Json ToJson(const PerplexityResult& result, const PerplexityResult& dense) {
  return {{"sparsity", result.sparsity},
          {"policy", result.policy},
          {"perplexity", std::exp(result.loss)},
          {"loss", result.loss},
          {"standard_error", result.standard_error},
          {"loss_over_dense", result.loss - dense.loss},
          {"tokens", result.tokens},
          {"windows", result.windows},
          {"keep",
           {{"kv_read", KeepRatio(result.decode.bytes())},
            {"kv_held", KeepRatio(result.held)},
            {"score", KeepRatio(result.decode.scores())},
            {"value", KeepRatio(result.decode.values())}}},
          {"kv_bytes_per_token",
           {{"dense", PerToken(result.decode.bytes().dense(), result)},
            {"done", PerToken(result.decode.bytes().done(), result)}}},
          {"kv_bytes_held", {{"dense", result.held.dense()}, {"done", result.held.done()}}},
          {"refetch_share", RefetchShare(result.decode)},
          {"tokens_per_second", static_cast<double>(result.tokens) / result.seconds}};
}

void AddWindowFlags(CLI::App& app, WindowFlags& flags, const std::string& prompt) {
  const std::string group = "On a decoder, whose --data is a plain text";
  app.add_option("--window", flags.window,
                 "The text is cut into windows of so many tokens (default: the context)")
      ->check(CLI::Range(2, 1 << 20))
      ->option_text("N")
      ->group(group);
  app.add_option("--document", flags.document,
                 "A document begins at each line that begins so; of each only the beginning, at "
                 "most a window, is taken")
      ->option_text("TEXT")
      ->group(group);
  app.add_option(
         "--prompt-tokens", flags.prompt,
         fmt::format("Of each window so many are read densely and not scored (default {})", prompt))
      ->check(CLI::PositiveNumber)
      ->option_text("N")
      ->group(group);
}

absl::Status EvaluateText(LoadedModel& model, const std::string& path, int64_t limit,
                          const WindowFlags& flags, std::span<const Sweep> sweeps,
                          const TextOutput& output, std::stop_token stop) {
  if (!output.plot.path.empty()) {  // Before the work.
    THRESHER_RETURN_IF_ERROR(TextPlotScript({}, {}, output.plot).status());
  }
  THRESHER_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxTextBytes));
  auto windows = CutWindows(*model.tokenizer, *model.decoder, text,
                            {.tokens = flags.window, .document = flags.document, .limit = limit});
  if (!windows.ok()) return Annotate(windows.status(), path);
  std::vector<std::string> all = {"dense"};
  for (const std::string& policy : PoliciesIn(sweeps)) {
    THRESHER_RETURN_IF_ERROR(
        Annotate(model.decoder->ParsePolicy(policy).status(), policy));  // Before the work.
    if (policy != "dense") all.push_back(policy);
  }
  int64_t tokens = 0;  // Of a pass.
  for (const auto& window : *windows) tokens += static_cast<int64_t>(window.size()) - flags.prompt;
  Progress bar(!output.quiet);
  std::vector<PerplexityResult> results;
  for (const std::string& policy : all) {
    const auto before = static_cast<int64_t>(results.size()) * tokens;
    PerplexityOptions options{.prompt = flags.prompt};
    options.progress = [&](int64_t scored) {
      const double share = static_cast<double>(before + scored) /
                           static_cast<double>(tokens * static_cast<int64_t>(all.size()));
      bar.Update(before + scored, 0, share);
      return !stop.stop_requested();
    };
    auto result = MeasurePerplexity(*model.decoder, *windows, policy, options);
    if (!result.ok()) return Annotate(result.status(), policy);
    results.push_back(*std::move(result));
  }
  bar.Hide();
  if (output.json) {
    for (const PerplexityResult& result : results) {
      Print(Dump(ToJson(result, results.front())) + "\n");
    }
  } else {
    Print(ToTable(results));
  }
  if (!output.csv.empty()) THRESHER_RETURN_IF_ERROR(WriteFile(output.csv, ToCsv(results)));
  if (!output.plot.path.empty()) {
    PlotOptions options = output.plot;
    if (options.title.empty()) {
      options.title = fmt::format("{} tokens of {}", results.front().tokens,
                                  std::filesystem::path(path).filename().string());
    }
    THRESHER_ASSIGN_OR_RETURN(
        const std::string script,
        TextPlotScript(results.front(), SeriesFrom<PerplexityResult>(sweeps, results), options));
    THRESHER_RETURN_IF_ERROR(Draw(script));
  }
  return OutputStatus();
}

}  // namespace thresher::cli
