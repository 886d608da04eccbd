#include "client/cli/load_flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "backend/tensor/status.h"
#include "client/cli/share.h"
#include "client/load/schedule.h"

namespace thresher::cli {
namespace {

constexpr int64_t kLargestFile = int64_t{1} << 28;

void AddPlanFlags(CLI::App& app, LoadFlags& flags) {
  load::Plan& plan = flags.plan;
  const auto option = [&](const char* name, auto& value, const char* help, const char* text) {
    return app.add_option(name, value, help)->option_text(text)->group("Load");
  };
  const auto time = [&](const char* name, std::optional<absl::Duration>& value, bool zero,
                        const char* help) {
    const auto parse = [&value, zero](const std::string& text) {
      absl::Duration parsed;
      if (!absl::ParseDuration(text, &parsed) || parsed == absl::InfiniteDuration()) return false;
      value = parsed;
      return parsed > absl::ZeroDuration() || (zero && parsed == absl::ZeroDuration());
    };
    app.add_option(
           name, [parse](const CLI::results_t& results) { return parse(results.at(0)); }, help)
        ->check([parse](const std::string& text) -> std::string {
          if (parse(text)) return "";
          return fmt::format("'{}' is not a time span with a unit, such as 10s or 250ms", text);
        })
        ->option_text("TIME")
        ->group("Load");
  };
  option(
      "--mode", flags.mode,
      "closed (default); constant, poisson, schedule, ramp, step; peak; or MLPerf's SingleStream, "
      "MultiStream, Server, Offline",
      "MODE")
      ->check(CLI::IsMember(load::ModeNames()));
  option("--concurrency", flags.concurrency,
         "Calls in flight in closed loop (default 1); a range is a level each: 1:8 doubles, "
         "2:10:4 adds",
         "N[:M[:STEP]]");
  option("--rate", flags.rate,
         "Requests a second in open loop; a range is a level each, but of ramp and step one run "
         "through it, and of peak the search's begin and limit",
         "R[:S[:STEP]]");
  option("--schedule", flags.schedule,
         "A file with the time of a request on each line: 0.25 (seconds) or 250ms", "FILE");
  time("--duration", plan.duration, false, "How long each level is measured (default 30s)");
  time("--warmup", plan.warmup, true, "How long it runs before that (default 5s)");
  option("--requests", plan.requests, "Ends after so many; of Offline: samples (default 24576)",
         "N")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000'000}));
  option("--bound", flags.bound,
         "What is fast enough: a percentile and its limit, of the latency or the first token",
         "p99=50ms|first_token:p90=1s");
  option("--seed", plan.seed, "Of all that is drawn; the same seed gives the same load (default 1)",
         "N")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--even", plan.even, "Even arrivals in ramp and step instead of Poisson ones")
      ->group("Load");
  AddShare(app, "--peak-precision", flags.precision,
           "A search ends when what broke the bound is so little above what kept it (default 5%)")
      ->option_text("X")
      ->group("Load");
  option("--max-in-flight", plan.max_in_flight,
         "Open loop drops, and counts, what is due beyond so many calls (default 8192)", "N")
      ->check(CLI::Range(1, 1 << 20));
  option("--connections", flags.connections, "Calls take turns on so many (default 1)", "N")
      ->check(CLI::Range(1, 1024));
}

void AddWorkFlags(CLI::App& app, LoadFlags& flags) {
  const auto option = [&](const char* name, auto& value, const char* help, const char* text) {
    return app.add_option(name, value, help)->option_text(text)->group("Requests");
  };
  option(
      "--method", flags.method,
      "classify (default), embed, generate, or infer: Open Inference's ModelInfer, of any server",
      "METHOD")
      ->check(CLI::IsMember(std::vector<std::string>{"classify", "embed", "generate", "infer"}));
  option("--mix", flags.mix, "Several methods and models instead, by weight",
         "METHOD[:MODEL][=WEIGHT],...");
  option("--lengths", flags.lengths,
         "Words of made-up texts (default 32): N, uniform:min=8,max=64, normal:mean=64,sigma=16, "
         "lognormal:mean=64,sigma=0.5,max=512",
         "DISTRIBUTION");
  option("--file", flags.file.file, "Take the texts from here, one a line; '-' is standard input",
         "PATH");
  option("--column", flags.file.column, "The lines are tab-separated: take this column", "N|NAME");
  option("--pair-column", flags.file.pair_column, "The second text of each pair, likewise",
         "N|NAME");
  app.add_flag("--header", flags.file.header, "Skip the first line (a column name implies it)")
      ->group("Requests");
  option("--data", flags.data,
         "Labelled examples, tab-separated: classify these, and tell the accuracy under load",
         "FILE");
  option("--label-column", flags.label_column, "Of --data (default: by the usual names)", "N|NAME");
  option("--batch", flags.plan.batch, "Inputs in one call (default 1; Offline 32)", "N")
      ->check(CLI::Range(1, 65536));
  app.add_flag("--truncate", flags.truncate, "Cut texts that are too long instead of failing")
      ->group("Requests");
  auto* sparsity =
      option("--sparsity", flags.sparsity,
             "What the server may leave out; several, or one with * for a share, are compared",
             "POLICY")
          ->allow_extra_args(false);
  AddShares(app, flags.shares)->group("Requests");
  AddShare(app, "--max-quality-loss", flags.max_quality_loss,
           "Instead: the most quality that may be lost, 0.01 or 1%; needs a calibrated model")
      ->option_text("X")
      ->group("Requests")
      ->excludes(sparsity);
  option("--max-tokens", flags.max_tokens, "Tokens to generate at most", "N")
      ->check(CLI::PositiveNumber);
  app.add_flag("--ignore-eos", flags.ignore_eos, "Generate on after an end-of-text token")
      ->group("Requests");
  option("--input", flags.inputs,
         "Of infer: send this input (default: all that are not optional); may be repeated", "NAME")
      ->allow_extra_args(false);
  option("--largest-id", flags.largest_id, "Of infer: token ids are drawn from 1 to this", "N")
      ->check(CLI::PositiveNumber);
}

/// A column's name implies one.
bool HasHeader(const InputFlags& flags) {
  const auto named = [](const std::string& column) {
    return column.find_first_not_of("0123456789") != std::string::npos;
  };
  return flags.header || named(flags.column) || named(flags.pair_column);
}

/// A file as a whole, of a size that makes sense.
absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  std::vector<char> block(1 << 16);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount() > 0) {
    text.append(block.data(), static_cast<size_t>(file.gcount()));
    if (static_cast<int64_t>(text.size()) > kLargestFile) {
      return InvalidArgument("{}: more than {} bytes", path, kLargestFile);
    }
  }
  if (!file.is_open() || file.bad() || !file.eof()) {
    return InvalidArgument("{}: {}", path, std::strerror(errno));
  }
  return text;
}

}  // namespace

void AddLoadFlags(CLI::App& app, LoadFlags& flags) {
  AddServerFlags(app, flags.server);
  AddModelFlags(app, flags.model);
  AddPlanFlags(app, flags);
  AddWorkFlags(app, flags);
  app.add_option("--report", flags.report, "Write a page with plots, to be opened in a browser")
      ->option_text("OUT.html");
  app.add_option("--csv", flags.csv, "Write the levels there too, one a line")->option_text("FILE");
  app.add_flag("--quiet", flags.quiet, "No progress line");
}

absl::StatusOr<load::Plan> PlanOf(const LoadFlags& flags) {
  load::Plan plan = flags.plan;
  plan.mode = load::ParseMode(flags.mode).value_or(load::Mode::kClosed);
  if (flags.precision) plan.precision = std::max(*flags.precision, 0.001);
  const auto range = [](const std::string& text, const char* flag,
                        std::optional<load::Range>* out) {
    if (text.empty()) return absl::OkStatus();
    const auto parsed = load::Range::Parse(text);
    if (!parsed.ok()) return Annotate(parsed.status(), flag);
    *out = *parsed;
    return absl::OkStatus();
  };
  THRESHER_RETURN_IF_ERROR(range(flags.concurrency, "--concurrency", &plan.concurrency));
  THRESHER_RETURN_IF_ERROR(range(flags.rate, "--rate", &plan.rate));
  if (!flags.bound.empty()) {
    const auto bound = load::Bound::Parse(flags.bound);
    if (!bound.ok()) return Annotate(bound.status(), "--bound");
    plan.bound = *bound;
  }
  if (!flags.schedule.empty()) {
    THRESHER_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.schedule));
    auto times = load::ParseTimes(text);
    if (!times.ok()) return Annotate(times.status(), flags.schedule);
    plan.times = *std::move(times);
  }
  THRESHER_RETURN_IF_ERROR(Check(plan));
  return plan;
}

absl::StatusOr<std::vector<std::string>> PoliciesOf(const LoadFlags& flags) {
  std::vector<std::string> policies;
  for (const std::string& sparsity : flags.sparsity) {
    for (std::string& policy : PoliciesOf(sparsity, flags.shares)) {
      if (std::ranges::count(policies, policy) == 0) policies.push_back(std::move(policy));
    }
  }
  if (policies.empty()) policies.emplace_back();
  return policies;
}

absl::StatusOr<std::vector<load::PartOptions>> PartsOf(const LoadFlags& flags, int batch) {
  std::vector<load::PartOptions> parts;
  if (flags.mix.empty()) {
    parts.push_back({.method = *load::ParseMethod(flags.method)});
  } else {
    auto parsed = load::ParseMix(flags.mix);
    if (!parsed.ok()) return Annotate(parsed.status(), "--mix");
    parts = *std::move(parsed);
  }
  for (const load::PartOptions& part : parts) {
    if (!flags.data.empty() && part.method != load::Method::kClassify) {
      return InvalidArgument("--data goes with the method classify alone");
    }
    if (part.method == load::Method::kGenerate && batch > 1) {
      return InvalidArgument(
          "a call of generate takes one prompt, and not {}: give --batch 1, and no --mode "
          "MultiStream",
          batch);
    }
  }
  return parts;
}

absl::StatusOr<std::vector<load::Text>> ReadTexts(const LoadFlags& flags) {
  std::vector<load::Text> texts;
  if (!flags.file.file.empty() && !flags.data.empty()) {
    return InvalidArgument("give --file or --data, not both");
  }
  if (flags.file.file.empty()) {
    if (flags.data.empty() && (!flags.file.column.empty() || !flags.file.pair_column.empty() ||
                               flags.file.header || !flags.label_column.empty())) {
      return InvalidArgument(
          "--column, --pair-column, --label-column and --header go with --file or --data");
    }
    return texts;
  }
  THRESHER_ASSIGN_OR_RETURN(const auto source, InputSource::Open(flags.file));
  int64_t bytes = 0;
  for (Record record;;) {
    switch (source->Next(record)) {
      case InputSource::Result::kWait: {
        pollfd event{source->fd(), POLLIN, 0};
        poll(&event, 1, -1);
        continue;
      }
      case InputSource::Result::kError:
        return source->status();
      case InputSource::Result::kEnd:
        if (texts.empty()) return InvalidArgument("{}: no text in it", flags.file.file);
        return texts;
      case InputSource::Result::kRecord:
        break;
    }
    if (!record.status.ok()) {
      // Errors of columns name their line themselves.
      const bool named = Message(record.status).starts_with("line ");
      return Annotate(record.status,
                      named ? flags.file.file
                            : fmt::format("{}: line {}", flags.file.file,
                                          record.index + (HasHeader(flags.file) ? 2 : 1)));
    }
    bytes += static_cast<int64_t>(record.text.size()) + 64;
    if (bytes > kLargestFile) {
      return InvalidArgument("{}: more than {} bytes of text", flags.file.file, kLargestFile);
    }
    texts.push_back({.text = std::move(record.text), .pair = std::move(record.pair)});
  }
}

}  // namespace thresher::cli
