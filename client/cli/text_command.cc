#include "client/cli/text_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <map>

#include "backend/sparsity/policy_text.h"
#include "client/cli/share.h"

namespace thresher::cli {
namespace {

absl::Status ToAbsl(const v1::Status& status) {
  if (status.code() == 0) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.code()), status.message());
}

/// The texts as the output shows them again.
Json Echo(const Record& record) {
  Json json = {{"index", record.index}, {"text", record.text}};
  if (record.pair) json["pair"] = *record.pair;
  return json;
}

}  // namespace

void AddTextFlags(CLI::App& app, TextFlags& flags, const std::string& what) {
  AddServerFlags(app, flags.server);
  AddModelFlags(app, flags.model);
  AddInputFlags(app, flags.inputs, what);
  app.add_flag("--truncate", flags.truncate, "Cut texts that are too long instead of failing")
      ->group("Input");
  AddCallLimits(app, flags.limits, "Calls");
  app.add_flag("--timings", flags.timings,
               "Show how long each took (--json always does, in seconds)");
  app.add_flag("--quiet", flags.quiet, "No progress bar");
}

void AddPairFlag(CLI::App& app, TextFlags& flags) {
  app.add_option("--pair", flags.inputs.pair, "The second text that goes with each input")
      ->option_text("TEXT")
      ->group("Input");
}

void AddComputeFlags(CLI::App& app, TextFlags& flags) {
  auto* sparsity =
      app.add_option("--sparsity", flags.sparsity,
                     "What the server may leave out, NAME[:key=value,...] (default: nothing)")
          ->option_text("POLICY")
          ->group("Calls");
  AddShare(app, "--max-quality-loss", flags.max_quality_loss,
           "Instead: the most quality that may be lost, 0.01 or 1%; needs a calibrated model")
      ->option_text("X")
      ->group("Calls")
      ->excludes(sparsity);
  app.add_flag("--explain", flags.explain,
               "Show after which layer each piece of the text was dropped, and what each layer did")
      ->group("Calls");
  app.add_option("--color", flags.color,
                 "Of --explain: auto (on a terminal, unless NO_COLOR is set), always or never")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, ColorMode>{{"auto", ColorMode::kAuto},
                                                                   {"always", ColorMode::kAlways},
                                                                   {"never", ColorMode::kNever}}))
      ->option_text("WHEN")
      ->group("Calls");
  app.footer(&PolicyKeysText);  // Above each command's examples.
}

v1::RequestOptions ToOptions(const TextFlags& flags) {
  v1::RequestOptions options;
  options.set_truncate(flags.truncate);
  if (!flags.sparsity.empty()) options.mutable_sparsity()->set_policy(flags.sparsity);
  if (flags.max_quality_loss) {
    options.mutable_sparsity()->set_max_quality_loss(*flags.max_quality_loss);
  }
  if (flags.explain) options.mutable_sparsity()->set_explain(true);
  return options;
}

void ToInput(const Record& record, v1::Input& input) {
  input.set_text(record.text);
  if (record.pair) input.set_pair(*record.pair);
}

Reporter::Reporter(const TextFlags& flags, int64_t input_size)
    : flags_(flags),
      input_size_(input_size),
      shared_terminal_(isatty(STDOUT_FILENO) != 0),
      progress_(!flags.quiet) {}

void Reporter::Answered(const Record& record, bool pair_first, const v1::ResultInfo& info,
                        const AddJson& add_json, const MakeText& make_text) {
  if (const absl::Status status = ToAbsl(info.status()); !status.ok()) {
    Failed(record, status);
    return;
  }
  ++done_;
  offset_ = record.offset;
  if (!flags_.server.json) {
    std::string text = make_text();
    if (flags_.timings) text += "    " + ToText(info.timings()) + "\n";
    if (flags_.explain) {
      const std::string pair = record.pair.value_or("");
      text += ExplainText(pair_first ? pair : record.text, pair_first ? record.text : pair, info,
                          UseColor(flags_.color));
    }
    Output(text);
    return;
  }
  Json json = Echo(record);
  add_json(json);
  json["token_count"] = info.tokens();
  if (info.truncated()) json["truncated"] = true;
  json["timings"] = ToJson(info.timings());
  if (info.has_report()) json["report"] = ReportJson(info.report(), info.pieces());
  Output(Dump(json) + "\n");
}

void Reporter::Failed(const Record& record, const absl::Status& status) {
  ++done_;
  ++failed_;
  offset_ = record.offset;
  progress_.Hide();
  fmt::print(stderr, "thresher: input {}: {}\n", record.index, Describe(status));
  if (flags_.server.json) {
    Json json = Echo(record);
    json["error"] = ToJson(status);
    Output(Dump(json) + "\n");
  }
}

bool Reporter::Flush() {
  if (!OutputStatus().ok()) open_ = false;
  if (open_) open_ = Print("");
  const double share = input_size_ > 0 ? static_cast<double>(offset_) / input_size_ : -1;
  progress_.Update(done_, failed_, share);
  return open_;
}

void Reporter::Output(const std::string& text) {
  if (shared_terminal_) progress_.Hide();
  open_ = Print(text) && open_;
}

}  // namespace thresher::cli
