#include "client/cli/load_format.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "backend/sparsity/confidence.h"
#include "client/cli/format.h"
#include "client/load/early_stopping.h"

namespace thresher::cli {
namespace {

using load::LatencyHistogram;
using load::LevelReport;
using load::LoadReport;
using load::RunResult;

/// The keys of JSON and CSV.
constexpr std::pair<const char*, double> kPercentiles[] = {
    {"p50", 0.5}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}, {"p999", 0.999}};

double Seconds(absl::Duration time) { return absl::ToDoubleSeconds(time); }

Json Optional(const std::optional<absl::Duration>& time) {
  return time ? Json(Seconds(*time)) : Json(nullptr);
}

Json LatencyJson(const LatencyHistogram& histogram) {
  Json json = Json::object();
  const bool any = histogram.count() > 0;
  for (const auto& [name, p] : kPercentiles) {
    json[name] = any ? Json(Seconds(histogram.Percentile(p))) : Json(nullptr);
  }
  json["max"] = any ? Json(Seconds(histogram.max())) : Json(nullptr);
  json["mean"] = any ? Json(Seconds(histogram.mean())) : Json(nullptr);
  return json;
}

Json SplitJson(const load::Split& split) {
  return {{"client", Seconds(split.client)},    {"network", Optional(split.network)},
          {"queue", Optional(split.queue)},     {"tokenize", Optional(split.tokenize)},
          {"compute", Optional(split.compute)}, {"other", Optional(split.other)}};
}

Json OutcomesJson(const load::Tally& tally) {
  Json json = {{"ok", 0}, {"resource_exhausted", 0}, {"deadline_exceeded", 0}};
  for (const auto& [code, count] : tally.outcomes) json[OutcomeName(code)] = count;
  return json;
}

Json ConfidenceJson(const load::Tally& tally) {
  Json json = {{"level", load::kConfidence}, {"requests", tally.ended()}};
  for (const auto& [name, p] : kPercentiles) {
    json[name] = {{"at_most", Optional(tally.AtMost(p))}, {"needed", load::QueriesNeeded(1, p)}};
  }
  return json;
}

Json BoundJson(const load::Bound& bound, const load::Verdict& verdict) {
  return {{"of", bound.of == load::Bound::Of::kLatency ? "latency" : "first_token"},
          {"percentile", bound.percentile},
          {"limit", Seconds(bound.limit)},
          {"requests", verdict.queries},
          {"late", verdict.late},
          {"kept", verdict.kept},
          {"sure", verdict.sure},
          {"needed", verdict.queries_needed}};
}

Json GeneratorJson(const load::Generator& generator, const std::vector<std::string>& limits) {
  return {{"lateness",
           {{"p50", Seconds(generator.lateness.Percentile(0.5))},
            {"p99", Seconds(generator.lateness.Percentile(0.99))},
            {"max", Seconds(generator.lateness.max())}}},
          {"process_cpu", generator.process_cpu},
          {"thread_cpu", generator.thread_cpu},
          {"cpus", generator.cpus},
          {"limits", limits}};
}

Json TimelineJson(const RunResult& run) {
  Json points = Json::array();
  for (const load::TimePoint& point : run.timeline) {
    points.push_back({{"at", point.seconds},
                      {"due", point.due},
                      {"ok", point.ok},
                      {"failed", point.failed},
                      {"p50", Seconds(point.p50)},
                      {"p99", Seconds(point.p99)}});
  }
  return points;
}

void AddTexts(const RunResult& run, Json& json) {
  if (run.all.first_token.count() == 0) return;
  json["first_token"] = LatencyJson(run.all.first_token);
  json["inter_token"] = LatencyJson(run.all.inter_token);
  json["output_tokens_per_second"] = run.output_tokens_per_second;
}

std::string Rate(double rate) {
  return fmt::format("{:.{}f}", rate, rate < 10 ? 2 : rate < 1000 ? 1 : 0);
}

std::string LevelName(const LevelReport& level) {
  if (level.sparsity.empty()) return level.level.name;
  return fmt::format("{}, {}", level.level.name, level.sparsity);
}

int64_t FailedOf(const RunResult& run) {
  return run.all.ended() - run.all.ok() + run.generator.dropped;
}

std::string SplitText(const LatencyHistogram& latency, const load::Split& split) {
  std::string text =
      fmt::format("mean {} = client {}", TimeText(latency.mean()), TimeText(split.client));
  const auto add = [&](const char* name, const std::optional<absl::Duration>& part) {
    if (part) text += fmt::format(" + {} {}", name, TimeText(*part));
  };
  add("network", split.network);
  add("queue", split.queue);
  add("tokenize", split.tokenize);
  add("compute", split.compute);
  add("other", split.other);
  return split.network ? text : text + " + what this server does not tell";
}

std::string ConfidenceText(const load::Tally& tally) {
  std::vector<std::string> sure;
  std::string rest;
  for (const auto& [name, p] : kPercentiles) {
    if (const auto at_most = tally.AtMost(p)) {
      sure.push_back(fmt::format("{} {}", load::PercentileName(p), TimeText(*at_most)));
    } else if (rest.empty()) {
      const int64_t needed = load::QueriesNeeded(1, p);
      rest = tally.ended() < needed
                 ? fmt::format("{} needs {} requests", load::PercentileName(p), needed)
                 : fmt::format("nothing of {}, since too many failed", load::PercentileName(p));
    }
  }
  std::string text = sure.empty() ? "" : fmt::format("at most {}", fmt::join(sure, ", "));
  if (!rest.empty()) text += (text.empty() ? "" : "; ") + rest;
  return fmt::format("with {:.0f} % confidence, of {} requests: {}", 100 * load::kConfidence,
                     tally.ended(), text);
}

std::string VerdictText(const load::Bound& bound, const load::Verdict& verdict) {
  std::string text = fmt::format(
      "bound {}{} <= {}: {}, {} of {} late", load::PercentileName(bound.percentile),
      bound.of == load::Bound::Of::kFirstToken ? " of the first token" : "", TimeText(bound.limit),
      verdict.kept ? "kept" : "broken", verdict.late, verdict.queries);
  if (verdict.kept && !verdict.sure) {
    text +=
        fmt::format("; to be sure with so many late it needs {} requests", verdict.queries_needed);
  }
  return text;
}

std::string CsvCell(const Json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  std::string cell = "\"";
  for (const char c : value.get<std::string>()) {
    if (c == '"') cell += '"';
    cell += c;
  }
  return cell + '"';
}

}  // namespace

std::string TimeText(absl::Duration time) {
  const double seconds = Seconds(time);
  const auto digits = [](double value) { return value < 9.995 ? 2 : value < 99.95 ? 1 : 0; };
  if (seconds < 999.5e-6) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 0.9995) {
    return fmt::format("{:.{}f} ms", seconds * 1e3, digits(seconds * 1e3));
  }
  return fmt::format("{:.{}f} s", seconds, digits(seconds));
}

std::string OutcomeName(absl::StatusCode code) {
  std::string name = absl::StatusCodeToString(code);
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

std::optional<Accuracy> AccuracyOf(const RunResult& run) {
  const int64_t n = run.all.labelled;
  if (n == 0) return std::nullopt;
  constexpr double kEachSide = 0.975;
  return Accuracy{.value = static_cast<double>(run.all.right) / static_cast<double>(n),
                  .low = 1 - BinomialUpperBound(n - run.all.right, n, kEachSide),
                  .high = BinomialUpperBound(run.all.right, n, kEachSide),
                  .n = n};
}

Json ToJson(const LoadReport& report, const LevelReport& level) {
  const RunResult& run = level.run;
  Json json = {{"mode", load::Name(report.mode)}, {"workload", report.parts}};
  if (!level.sparsity.empty()) json["sparsity"] = level.sparsity;
  if (level.level.concurrency) json["concurrency"] = *level.level.concurrency;
  if (level.level.rate) json["rate"] = *level.level.rate;
  json["offered_rate"] = run.offered_rate;
  json["throughput"] = run.throughput;
  json["goodput"] = run.goodput;
  json["latency"] = LatencyJson(run.all.latency);
  json["split"] = SplitJson(level.split);
  json["outcomes"] = OutcomesJson(run.all);
  json["refusal_latency"] = LatencyJson(run.all.refusal);
  json["confidence"] = ConfidenceJson(run.all);
  json["generator_limited"] = !level.limits.empty();
  json["generator"] = GeneratorJson(run.generator, level.limits);
  json["seconds"] = run.seconds;
  json["due"] = run.due;
  json["sent"] = run.sent;
  json["dropped"] = run.generator.dropped;
  json["inputs_per_second"] = run.inputs_per_second;
  if (run.all.ok() > 0) {
    json["tokens"] = {{"input_mean", static_cast<double>(run.all.input_tokens) /
                                         static_cast<double>(run.all.inputs)},
                      {"output_mean", static_cast<double>(run.all.output_tokens) /
                                          static_cast<double>(run.all.ok())}};
  }
  AddTexts(run, json);
  if (const auto accuracy = AccuracyOf(run)) {
    json["accuracy"] = {{"value", accuracy->value},
                        {"low", accuracy->low},
                        {"high", accuracy->high},
                        {"n", accuracy->n}};
  }
  if (run.verdict) json["bound"] = BoundJson(*report.bound, *run.verdict);
  if (level.scenario) {
    json["scenario"] = {{"metric", level.scenario->metric},
                        {"value", level.scenario->value ? Json(*level.scenario->value) : Json()},
                        {"unit", level.scenario->unit},
                        {"valid", level.scenario->valid}};
    if (!level.scenario->valid) json["scenario"]["why"] = level.scenario->why;
  }
  if (run.parts.size() > 1) {
    for (size_t i = 0; i < run.parts.size(); ++i) {
      json["parts"].push_back({{"workload", report.parts[i]},
                               {"outcomes", OutcomesJson(run.parts[i])},
                               {"latency", LatencyJson(run.parts[i].latency)}});
    }
  }
  Json errors = Json::object();
  for (const auto& [code, message] : run.all.messages) errors[OutcomeName(code)] = message;
  if (!errors.empty()) json["errors"] = errors;
  if (run.gave_up) json["gave_up"] = true;
  if (run.interrupted) json["interrupted"] = true;
  json["timeline"] = TimelineJson(run);
  return json;
}

Json ToJson(const LoadReport& report, const load::Peak& peak) {
  Json json = Json::object();
  if (!peak.sparsity.empty()) json["sparsity"] = peak.sparsity;
  json["peak"] = {{"rate", nullptr}, {"ended_by", peak.ended_by}};
  if (peak.level) json["peak"]["rate"] = *report.levels[*peak.level].level.rate;
  return json;
}

std::string ToCsv(const LoadReport& report) {
  std::string csv;
  for (const LevelReport& level : report.levels) {
    Json json = ToJson(report, level);
    // The parts of an object are columns of their own; lists have no place in a table.
    Json flat = {{"sparsity", level.sparsity}, {"load", level.level.name}};
    for (const char* key : {"offered_rate", "throughput", "goodput"}) flat[key] = json[key];
    for (const char* key : {"latency", "split"}) {
      for (const auto& [name, value] : json[key].items()) {
        flat[fmt::format("{}_{}", key, name)] = value;
      }
    }
    flat["ok"] = level.run.all.ok();
    flat["failed"] = FailedOf(level.run);
    flat["dropped"] = json["dropped"];
    flat["generator_limited"] = json["generator_limited"];
    const bool texts = json.contains("first_token");
    flat["first_token_p50"] = texts ? json["first_token"]["p50"] : Json();
    flat["first_token_p99"] = texts ? json["first_token"]["p99"] : Json();
    flat["inter_token_p50"] = texts ? json["inter_token"]["p50"] : Json();
    flat["inter_token_p99"] = texts ? json["inter_token"]["p99"] : Json();
    flat["accuracy"] = json.contains("accuracy") ? json["accuracy"]["value"] : Json();
    std::string names;
    std::string values;
    for (const auto& [name, value] : flat.items()) {
      names += (names.empty() ? "" : ",") + name;
      values += (values.empty() ? "" : ",") + CsvCell(value);
    }
    if (csv.empty()) csv = names + "\n";
    csv += values + "\n";
  }
  return csv;
}

std::vector<std::vector<std::string>> LoadRows(const LoadReport& report) {
  std::vector<std::vector<std::string>> rows = {
      {"LOAD", "OFFERED/S", "ANSWERED/S", "GOOD/S", "P50", "P90", "P99", "P99.9", "MAX", "FAILED"}};
  const bool labelled = std::ranges::any_of(
      report.levels, [](const LevelReport& level) { return level.run.all.labelled > 0; });
  if (labelled) rows[0].emplace_back("ACCURACY");
  for (const LevelReport& level : report.levels) {
    const RunResult& run = level.run;
    const LatencyHistogram& latency = run.all.latency;
    const bool any = latency.count() > 0;
    const auto percentile = [&](double p) {
      return any ? TimeText(latency.Percentile(p)) : std::string("-");
    };
    std::vector<std::string> row = {Printable(LevelName(level)),
                                    Rate(run.offered_rate),
                                    Rate(run.throughput),
                                    Rate(run.goodput),
                                    percentile(0.5),
                                    percentile(0.9),
                                    percentile(0.99),
                                    percentile(0.999),
                                    any ? TimeText(latency.max()) : "-",
                                    fmt::format("{}", FailedOf(run))};
    if (const auto accuracy = AccuracyOf(run)) {
      row.push_back(fmt::format("{:.4f}", accuracy->value));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<std::string> LoadNotes(const LoadReport& report, const LevelReport& level) {
  const RunResult& run = level.run;
  std::vector<std::string> notes;
  if (run.interrupted) notes.emplace_back("interrupted");
  if (run.gave_up) notes.emplace_back("ended early: the bound was broken for certain");
  if (run.all.ok() > 0) {
    notes.push_back(SplitText(run.all.latency, level.split));
    notes.push_back(ConfidenceText(run.all));
  }
  if (run.verdict) notes.push_back(VerdictText(*report.bound, *run.verdict));
  if (run.all.first_token.count() > 0) {
    const auto three = [](const LatencyHistogram& histogram) {
      return fmt::format("p50 {}, p90 {}, p99 {}", TimeText(histogram.Percentile(0.5)),
                         TimeText(histogram.Percentile(0.9)), TimeText(histogram.Percentile(0.99)));
    };
    notes.push_back("first token " + three(run.all.first_token));
    notes.push_back(fmt::format("between tokens {}; {} tokens/s", three(run.all.inter_token),
                                Rate(run.output_tokens_per_second)));
  }
  if (run.all.inputs > run.all.ok()) {
    notes.push_back(fmt::format("{} inputs/s in calls of several", Rate(run.inputs_per_second)));
  }
  if (const auto accuracy = AccuracyOf(run)) {
    notes.push_back(fmt::format("accuracy {:.4f} ({:.4f} to {:.4f} with 95 % confidence, n = {})",
                                accuracy->value, accuracy->low, accuracy->high, accuracy->n));
  }
  if (run.parts.size() > 1) {
    for (size_t i = 0; i < run.parts.size(); ++i) {
      const LatencyHistogram& latency = run.parts[i].latency;
      notes.push_back(fmt::format("{}: {} answered, p50 {}, p99 {}", Printable(report.parts[i]),
                                  latency.count(), TimeText(latency.Percentile(0.5)),
                                  TimeText(latency.Percentile(0.99))));
    }
  }
  for (const auto& [code, count] : run.all.outcomes) {
    if (code == absl::StatusCode::kOk) continue;
    const bool refused = code == absl::StatusCode::kResourceExhausted;
    const std::string after =
        refused ? fmt::format(" (p50 {}, p99 {})", TimeText(run.all.refusal.Percentile(0.5)),
                              TimeText(run.all.refusal.Percentile(0.99)))
                : "";
    notes.push_back(fmt::format("{} {}{}: {}", count, absl::StatusCodeToString(code), after,
                                Printable(run.all.messages.at(code))));
  }
  if (level.scenario) {
    const load::ScenarioResult& scenario = *level.scenario;
    notes.push_back(
        fmt::format("{}: {} {}{}", load::Name(report.mode), scenario.metric,
                    !scenario.value        ? "-"
                    : scenario.unit == "s" ? TimeText(absl::Seconds(*scenario.value))
                                           : Rate(*scenario.value),
                    scenario.valid ? "; VALID" : fmt::format("; INVALID: {}", scenario.why)));
  }
  for (const std::string& limit : level.limits) notes.push_back("GENERATOR LIMITED: " + limit);
  return notes;
}

std::string PeakText(const LoadReport& report, const load::Peak& peak) {
  const std::string policy = peak.sparsity.empty() ? "" : " of " + Printable(peak.sparsity);
  if (!peak.level) return fmt::format("no peak{}: every rate broke the bound", policy);
  std::string text =
      fmt::format("peak{}: {}/s", policy, Rate(*report.levels[*peak.level].level.rate));
  if (peak.ended_by == "generator") text += ", or more: beyond it the generator is the limit";
  if (peak.ended_by == "limit") text += ", or more: no higher rate was to be tried";
  return text;
}

std::string ToText(const LoadReport& report) {
  std::string text = Table(LoadRows(report));
  for (const LevelReport& level : report.levels) {
    text += "\n" + Printable(LevelName(level)) + "\n";
    for (const std::string& note : LoadNotes(report, level)) text += "  " + note + "\n";
  }
  for (const load::Peak& peak : report.peaks) text += "\n" + PeakText(report, peak) + "\n";
  return text;
}

std::string LiveLine(const std::string& name, const load::LiveView& view) {
  std::string line = Printable(name) + "  ";
  const double elapsed = Seconds(view.elapsed);
  line += view.total < absl::InfiniteDuration()
              ? fmt::format("{:.1f} of {:.0f} s", elapsed, Seconds(view.total))
              : fmt::format("{:.1f} s", elapsed);
  line += fmt::format("  {}/s", Rate(view.rate));
  if (view.warming_up) return line + "  warming up";
  line += fmt::format("  p50 {}  p99 {}  {} in flight  {} failed", TimeText(view.p50),
                      TimeText(view.p99), view.in_flight, view.failed);
  return line;
}

}  // namespace thresher::cli
