#include "client/cli/load_report_html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "client/cli/format.h"
#include "client/cli/load_format.h"
#include "client/cli/svg_chart.h"

namespace thresher::cli {
namespace {

using load::LevelReport;
using load::LoadReport;

// Colours of Okabe and Ito, which the colour-blind can tell apart; a bit lighter in the dark.
constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #68707a; --line: #d9dde2; --paper: #fff;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #b38600; --c5: #56b4e9;
  --c6: #8a5a2b; --c7: #555; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa2ac; --line: #363b42;
  --paper: #15181c; --c0: #4ea8de; --c1: #f08a4b; --c2: #3ecf9b; --c3: #e0a3c6; --c4: #e0b93b;
  --c5: #8fd0f5; --c6: #c79a6b; --c7: #aaa; --bad: #ff8a80; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; padding: 0 1rem; max-width: 84rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
code, pre { font: 13px/1.45 ui-monospace, monospace; } pre { overflow-x: auto; }
.soft, .note { color: var(--soft); } .bad { color: var(--bad); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
svg.chart { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .title { font-weight: 600; font-size: 13px; }
svg .grid { stroke: var(--line); } svg .limit { stroke: var(--bad); stroke-dasharray: 6 3; }
svg g path { fill: none; stroke: var(--c); stroke-width: 2; } svg g circle { fill: var(--c); }
svg rect { fill: var(--c); } svg .dashed path { stroke-dasharray: 5 4; }
)";

std::string NameOf(const LevelReport& level) {
  return level.sparsity.empty() ? level.level.name
                                : fmt::format("{}, {}", level.level.name, level.sparsity);
}

double Seconds(absl::Duration time) { return absl::ToDoubleSeconds(time); }

/// What a level is drawn against.
double LoadOf(const LoadReport& report, const LevelReport& level) {
  if (load::IsOpenLoop(report.mode)) return level.run.offered_rate;
  return static_cast<double>(level.level.concurrency.value_or(1));
}

std::string LoadLabel(const LoadReport& report) {
  return load::IsOpenLoop(report.mode) ? "requests offered a second" : "calls in flight";
}

std::vector<std::string> PoliciesIn(const LoadReport& report) {
  std::vector<std::string> policies;
  for (const LevelReport& level : report.levels) {
    if (std::ranges::count(policies, level.sparsity) == 0) policies.push_back(level.sparsity);
  }
  return policies;
}

/// A line through the levels of one policy, in the order of load: a search goes to and fro.
template <typename Value>
std::vector<std::pair<double, double>> Line(const LoadReport& report, const std::string& policy,
                                            Value value) {
  std::vector<std::pair<double, double>> points;
  for (const LevelReport& level : report.levels) {
    if (level.sparsity != policy) continue;
    if (const auto y = value(level)) points.emplace_back(LoadOf(report, level), *y);
  }
  std::ranges::sort(points);
  return points;
}

std::string Called(const std::string& what, const std::string& policy) {
  return policy.empty() ? what : fmt::format("{}, {}", what, policy);
}

std::string LatencyAgainstLoad(const LoadReport& report) {
  Chart chart = {.title = "Latency against load",
                 .x = {.label = LoadLabel(report)},
                 .y = {.label = "latency", .log = true, .time = true}};
  const auto add = [&](const std::string& name, double p, const std::string& policy, int color,
                       bool dashed) {
    const auto value = [p](const LevelReport& level) -> std::optional<double> {
      if (level.run.all.ok() == 0) return std::nullopt;
      return Seconds(level.run.all.latency.Percentile(p));
    };
    chart.series.push_back({Called(name, policy), Line(report, policy, value), color, dashed});
  };
  const auto policies = PoliciesIn(report);
  for (size_t i = 0; i < policies.size(); ++i) {
    const int color = static_cast<int>(i);
    if (policies.size() == 1) {
      add("p50", 0.5, policies[i], 0, false);
      add("p90", 0.9, policies[i], 2, false);
      add("p99", 0.99, policies[i], 1, false);
      add("p99.9", 0.999, policies[i], 3, false);
    } else {
      add("p50", 0.5, policies[i], color, true);
      add("p99", 0.99, policies[i], color, false);
    }
  }
  if (report.bound && report.bound->of == load::Bound::Of::kLatency) {
    chart.limit = {Seconds(report.bound->limit),
                   load::PercentileName(report.bound->percentile) + " bound"};
  }
  return DrawChart(chart);
}

std::string AnsweredAgainstLoad(const LoadReport& report) {
  Chart chart = {.title = "Answers against load",
                 .x = {.label = LoadLabel(report)},
                 .y = {.label = "answers a second"}};
  const auto policies = PoliciesIn(report);
  for (size_t i = 0; i < policies.size(); ++i) {
    const auto color = static_cast<int>(i);
    chart.series.push_back(
        {Called("answered", policies[i]),
         Line(report, policies[i],
              [](const LevelReport& level) { return std::optional(level.run.throughput); }),
         color, false});
    if (!report.bound) continue;
    chart.series.push_back(
        {Called("within the bound", policies[i]),
         Line(report, policies[i],
              [](const LevelReport& level) { return std::optional(level.run.goodput); }),
         color, true});
  }
  return DrawChart(chart);
}

std::string AccuracyAgainstLoad(const LoadReport& report) {
  const bool labelled = std::ranges::any_of(
      report.levels, [](const LevelReport& level) { return level.run.all.labelled > 0; });
  if (!labelled) return "";
  Chart chart = {.title = "Accuracy against load",
                 .x = {.label = LoadLabel(report)},
                 .y = {.label = "accuracy"}};
  double low = 1;
  double high = 0;
  const auto policies = PoliciesIn(report);
  for (size_t i = 0; i < policies.size(); ++i) {
    const auto value = [&](const LevelReport& level) -> std::optional<double> {
      const auto accuracy = AccuracyOf(level.run);
      if (!accuracy) return std::nullopt;
      low = std::min(low, accuracy->value);
      high = std::max(high, accuracy->value);
      return accuracy->value;
    };
    chart.series.push_back({policies[i].empty() ? "accuracy" : policies[i],
                            Line(report, policies[i], value), static_cast<int>(i), false});
  }
  // Not from zero: what differs are a few points.
  const int first = static_cast<int>(std::floor(low * 20));
  const int last = std::max(static_cast<int>(std::ceil(high * 20)), first + 1);
  for (int tick = first; tick <= last; ++tick) {
    chart.y.ticks.emplace_back(tick / 20.0, fmt::format("{:.2f}", tick / 20.0));
  }
  return DrawChart(chart);
}

/// Which share of requests took how long, with room for the tail.
std::string LatencyByPercentile(const LoadReport& report) {
  Chart chart = {.title = "Latency by percentile",
                 .x = {.label = "percentile"},
                 .y = {.label = "latency", .log = true, .time = true}};
  const auto place = [](double p) { return -std::log10(1 - p); };
  for (const double p : {0.0, 0.5, 0.9, 0.99, 0.999}) {
    chart.x.ticks.emplace_back(place(p), load::PercentileName(p));
  }
  int color = 0;
  for (const LevelReport& level : report.levels) {
    if (color == 8) break;  // More could not be told apart.
    const auto n = static_cast<double>(level.run.all.ok());
    ChartSeries series = {.name = NameOf(level), .color = color++};
    double drawn = -1;
    level.run.all.latency.ForEach([&](absl::Duration time, int64_t below) {
      // The largest of n is at the percentile (n - 1/2) / n.
      const double p = std::min(place(std::min(static_cast<double>(below), n - 0.5) / n), 4.0);
      if (p - drawn < 0.03 && below < level.run.all.ok()) return;
      drawn = p;
      series.points.emplace_back(p, Seconds(time));
    });
    chart.series.push_back(std::move(series));
  }
  return DrawChart(chart);
}

std::string SplitOfMean(const LoadReport& report) {
  BarChart chart = {.title = "Where the mean latency goes",
                    .parts = {"client", "network", "queue", "tokenize", "compute", "other"}};
  for (const LevelReport& level : report.levels) {
    if (level.run.all.ok() == 0) continue;
    const load::Split& split = level.split;
    const auto part = [](const std::optional<absl::Duration>& time) {
      return time ? Seconds(*time) : 0.0;
    };
    BarChart::Row row = {NameOf(level),
                         {Seconds(split.client), part(split.network), part(split.queue),
                          part(split.tokenize), part(split.compute), part(split.other)}};
    // Of a server that does not tell, the rest is all "other".
    if (!split.network) row.seconds[5] = Seconds(level.run.all.latency.mean() - split.client);
    chart.rows.push_back(std::move(row));
    if (chart.rows.size() == 24) break;
  }
  return DrawBars(chart);
}

std::string Timelines(const LevelReport& level) {
  Chart rate = {
      .title = "Requests over time", .x = {.label = "seconds"}, .y = {.label = "a second"}};
  Chart latency = {.title = "Latency over time",
                   .x = {.label = "seconds"},
                   .y = {.label = "latency", .log = true, .time = true}};
  rate.series = {{.name = "due", .color = 7, .dashed = true},
                 {.name = "answered", .color = 0},
                 {.name = "failed", .color = 1}};
  latency.series = {{.name = "p50", .color = 0}, {.name = "p99", .color = 1}};
  const auto& timeline = level.run.timeline;
  if (timeline.size() < 3) return "";
  const double window = timeline[1].seconds - timeline[0].seconds;
  for (const load::TimePoint& point : timeline) {
    const double middle = point.seconds + window / 2;
    rate.series[0].points.emplace_back(middle, static_cast<double>(point.due) / window);
    rate.series[1].points.emplace_back(middle, static_cast<double>(point.ok) / window);
    rate.series[2].points.emplace_back(middle, static_cast<double>(point.failed) / window);
    if (point.ok == 0) continue;
    latency.series[0].points.emplace_back(middle, Seconds(point.p50));
    latency.series[1].points.emplace_back(middle, Seconds(point.p99));
  }
  return "<div class=\"charts\">\n" + DrawChart(rate) + DrawChart(latency) + "</div>\n";
}

std::string TableOf(const LoadReport& report) {
  std::string html = "<div class=\"scroll\"><table>\n";
  for (const std::vector<std::vector<std::string>> rows = LoadRows(report);
       const std::vector<std::string>& row : rows) {
    const bool heading = &row == &rows.front();
    html += "<tr>";
    for (const std::string& cell : row) {
      html += fmt::format("<{0}>{1}</{0}>", heading ? "th" : "td", EscapeHtml(cell));
    }
    html += "</tr>\n";
  }
  return html + "</table></div>\n";
}

std::string Details(const LoadReport& report, const LevelReport& level) {
  std::string html =
      fmt::format("<details{}><summary>{}</summary>\n<ul>\n",
                  report.levels.size() == 1 ? " open" : "", EscapeHtml(NameOf(level)));
  for (const std::string& note : LoadNotes(report, level)) {
    const bool bad = note.starts_with("GENERATOR LIMITED");
    html += fmt::format("<li{}>{}</li>\n", bad ? " class=\"bad\"" : "", EscapeHtml(note));
  }
  return html + "</ul>\n" + Timelines(level) + "</details>\n";
}

}  // namespace

std::string ToHtml(const LoadReport& report) {
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n"
      "<title>Load test of {0}</title>\n<style>{1}",
      EscapeHtml(report.server), kStyle);
  for (int i = 0; i < 8; ++i) html += fmt::format(".c{0} {{ --c: var(--c{0}); }}\n", i);
  html += fmt::format("</style>\n</head>\n<body>\n<h1>Load test of {}</h1>\n",
                      EscapeHtml(report.server));
  std::string about = report.server_version;
  for (const std::string& part : report.parts) about += (about.empty() ? "" : "; ") + part;
  html +=
      fmt::format("<p class=\"soft\">{}; {}; {}</p>\n<pre>{}</pre>\n", EscapeHtml(about),
                  load::Name(report.mode), EscapeHtml(report.begun), EscapeHtml(report.command));
  for (const load::Peak& peak : report.peaks) {
    html += fmt::format("<p><strong>{}</strong></p>\n", EscapeHtml(PeakText(report, peak)));
  }
  const bool limited = std::ranges::any_of(
      report.levels, [](const LevelReport& level) { return !level.limits.empty(); });
  if (limited) {
    html +=
        "<p class=\"bad\">At some levels the generator itself was the limit; their latencies are "
        "partly its own. See the levels below.</p>\n";
  }
  html += TableOf(report);
  html += "<h2>Plots</h2>\n<div class=\"charts\">\n";
  if (report.levels.size() > 1) {
    html += LatencyAgainstLoad(report) + AnsweredAgainstLoad(report) + AccuracyAgainstLoad(report);
  }
  html += LatencyByPercentile(report) + SplitOfMean(report) + "</div>\n<h2>Levels</h2>\n";
  for (const LevelReport& level : report.levels) html += Details(report, level);
  return html +
         "<p class=\"soft\">Latency counts from when a request was due. Shares and percentiles are "
         "of the measured time, without the warm-up.</p>\n</body>\n</html>\n";
}

}  // namespace thresher::cli
