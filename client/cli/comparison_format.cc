#include "client/cli/comparison_format.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/tensor/status.h"
#include "client/cli/gnuplot.h"

namespace thresher::cli {
namespace {

// What a verdict asks for.
constexpr double kLeastSpeedup = 1.05;
constexpr double kMostLoss = 0.01;      // Points of accuracy or correlation.
constexpr double kMostTextLoss = 0.05;  // Nats a token.
constexpr double kNearly = 0.02;        // Of the target.

using Row = std::vector<std::string>;

/// The policies at one target, after dense.
std::vector<const ComparedPolicy*> At(const Comparison& comparison, double target) {
  std::vector<const ComparedPolicy*> policies;
  for (const ComparedPolicy& policy : comparison.policies) {
    if (policy.target == 0 || policy.target == target) policies.push_back(&policy);
  }
  return policies;
}

std::string Percent(double share) { return fmt::format("{:.1f} %", 100 * share); }
std::string Loss(const Comparison& comparison, double loss) {
  return comparison.decoder ? fmt::format("{:+.4f}", loss) : fmt::format("{:+.2f}", 100 * loss);
}
std::string Metric(const Comparison& comparison, double metric) {
  return comparison.metric == "accuracy" ? Percent(metric) : fmt::format("{:.4f}", metric);
}

std::string Predicted(const ComparedPolicy& policy) {
  if (policy.predicted == 0) return "-";
  const std::string share = fmt::format("{:.2f}", policy.predicted);
  return policy.predicted_bits == 0 ? share
                                    : fmt::format("{} in {} bit", share, policy.predicted_bits);
}

std::string Simulated(const ComparedPolicy& policy) {
  if (policy.simulated.empty()) return "-";
  std::vector<std::string> ratios;
  for (const SimulatedRatio& ratio : policy.simulated) {
    ratios.push_back(fmt::format("{} {:.2f} / {:.2f}", ratio.preset, ratio.time, ratio.energy));
  }
  return fmt::format("{}", fmt::join(ratios, ", "));
}

const Row kHeading = {"policy",
                      "saved",
                      "quality",
                      "loss",
                      "at most",
                      "drift",
                      "agree",
                      "recall",
                      "predicts",
                      "speed",
                      "simulated time / energy",
                      "setting"};

Row RowOf(const Comparison& comparison, const ComparedPolicy& policy) {
  if (!policy.measured()) {
    Row row = {policy.name};
    row.resize(kHeading.size(), "-");
    row.back() = policy.why_not;
    return row;
  }
  const bool dense = policy.target == 0;
  return {policy.name,
          dense ? "-" : Percent(policy.saved),
          Metric(comparison, policy.metric),
          dense ? "-" : Loss(comparison, policy.loss),
          dense ? "-" : Loss(comparison, policy.loss_upper),
          dense ? "-" : fmt::format("{:.5f}", policy.drift),
          dense ? "-" : Percent(policy.agreement),
          policy.recall ? fmt::format("{:.3f}", *policy.recall) : "-",
          Predicted(policy),
          fmt::format("{:.2f}", policy.speedup),
          Simulated(policy),
          policy.sparsity};
}

/// Drift of the controls that choose by chance, at that target; infinite where there are none.
double ChanceDrift(const Comparison& comparison, double target) {
  double drift = std::numeric_limits<double>::infinity();
  for (const ComparedPolicy& policy : comparison.policies) {
    if (policy.control == "random" && policy.target == target && policy.measured()) {
      drift = std::min(drift, policy.drift);
    }
  }
  return drift;
}

std::string TargetHeading(double target) {
  return fmt::format("{:.0f} % of the work saved", 100 * target);
}

/// Of all but dense and the controls.
std::vector<std::string> Verdicts(const Comparison& comparison, double target) {
  std::vector<std::string> earning, others;
  for (const ComparedPolicy* policy : At(comparison, target)) {
    if (policy->target == 0 || !policy->control.empty()) continue;
    const Verdict verdict = Judge(comparison, *policy);
    (verdict.earns ? earning : others).push_back(fmt::format("{}: {}", policy->name, verdict.text));
  }
  earning.insert(earning.end(), others.begin(), others.end());
  return earning;
}

std::string Cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

std::string MarkdownRow(const Row& row) {
  std::string out = "|";
  for (const std::string& cell : row) out += fmt::format(" {} |", Cell(cell));
  return out + "\n";
}

std::string SectionHeading(const Comparison& comparison) {
  return fmt::format("## {} on {}\n", comparison.model, comparison.data);
}

}  // namespace

Verdict Judge(const Comparison& comparison, const ComparedPolicy& policy) {
  if (!policy.measured()) return {.text = "this model can't have it: " + policy.why_not};
  if (!policy.reached && policy.saved < policy.target - kNearly) {
    return {.text = fmt::format("saves at most {} of this work", Percent(policy.saved))};
  }
  const double chance = ChanceDrift(comparison, policy.target);
  const bool better = policy.drift < chance;
  const double most_loss = comparison.decoder ? kMostTextLoss : kMostLoss;
  const bool kept = policy.loss_upper <= most_loss;
  const bool faster = policy.speedup >= kLeastSpeedup;
  const std::string unit = comparison.decoder ? " nats a token" : " points";
  std::string text = better && kept && faster  ? "earns its cost"
                     : !better                 ? "chooses no better than chance"
                     : policy.loss > most_loss ? "costs too much quality"
                     : !kept                   ? "may cost too much quality: more data would tell"
                     : policy.speedup >= 0.95  ? "keeps the quality and saves no time here"
                                               : "keeps the quality and costs time here";
  text += fmt::format("; loses {}{} (at most {}), drifts {:.2g}", Loss(comparison, policy.loss),
                      unit, Loss(comparison, policy.loss_upper), policy.drift);
  if (std::isfinite(chance)) text += fmt::format(" where chance drifts {:.2g}", chance);
  text += fmt::format(", runs {:.2f} times as fast as dense", policy.speedup);
  return {.earns = better && kept && faster, .text = std::move(text)};
}

std::string ToTable(const Comparison& comparison) {
  std::string out = fmt::format("{} on {}, {} {}; {}\n", Printable(comparison.model),
                                Printable(comparison.data), comparison.examples,
                                comparison.decoder ? "tokens" : "examples", comparison.device);
  for (const double target : comparison.targets) {
    std::vector<Row> rows = {kHeading};
    for (std::string& cell : rows.front()) {
      std::ranges::transform(cell, cell.begin(), [](char c) {
        return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
      });
    }
    for (const ComparedPolicy* policy : At(comparison, target)) {
      rows.push_back(RowOf(comparison, *policy));
      for (std::string& cell : rows.back()) cell = Printable(cell);
    }
    out += fmt::format("\n{}\n\n{}\n", TargetHeading(target), Table(rows));
    for (const std::string& verdict : Verdicts(comparison, target)) {
      out += Printable(verdict) + "\n";
    }
  }
  return out;
}

Json ToJson(const Comparison& comparison) {
  const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
  Json policies = Json::array();
  for (const ComparedPolicy& policy : comparison.policies) {
    Json json = {{"policy", policy.name}, {"control", policy.control}, {"target", policy.target}};
    if (!policy.measured()) {
      json["refused"] = policy.why_not;
      policies.push_back(std::move(json));
      continue;
    }
    json["sparsity"] = policy.sparsity;
    json["reached"] = policy.reached;
    json["saved"] = policy.saved;
    json["metric"] = number(policy.metric);
    json["loss"] = number(policy.loss);
    json["loss_upper"] = number(policy.loss_upper);
    json["drift"] = number(policy.drift);
    json["agreement"] = policy.agreement;
    json["recall"] = policy.recall ? Json(*policy.recall) : Json();
    json["predicted"] = policy.predicted;
    json["predicted_bits"] = policy.predicted_bits;
    json["speedup"] = number(policy.speedup);
    json["earns"] = policy.target > 0 && Judge(comparison, policy).earns;
    Json& simulated = json["simulated"] = Json::array();
    for (const SimulatedRatio& ratio : policy.simulated) {
      simulated.push_back({{"preset", ratio.preset},
                           {"time", number(ratio.time)},
                           {"energy", number(ratio.energy)}});
    }
    policies.push_back(std::move(json));
  }
  return {{"model", comparison.model},   {"data", comparison.data},
          {"metric", comparison.metric}, {"examples", comparison.examples},
          {"device", comparison.device}, {"policies", std::move(policies)}};
}

std::string ComparisonIntro() {
  return R"(# Policies side by side

`thresher compare` writes this page, a part for each model:

```
thresher compare --model DIRECTORY --data FILE --markdown docs/comparison.md
```

Every policy that a model can have is set to save the same share of the work: one key of it is turned, by halving, until the
account of what ran says so on a sample of the data. The work is that of the attention: of an encoder the scores that are
made and the V rows that are read, of a decoder the bytes of K and V that its decode steps read, with whatever is read to
choose among them. What a policy saves beyond that (whole tokens, rows of Q, K and V, feed-forward precision) shows in its
speed alone.

| column | what it is |
|---|---|
| saved | share of that work, on all of the data |
| quality, loss, at most | the metric; what dense has more of it, in points (decoder: what it has less of the loss, in nats a token); its upper 95 % bound |
| drift | mean KL divergence of the answer from dense's, in nats (of similarities: 1 - cosine of the pooled states) |
| agree | share of answers (of next tokens) that are dense's |
| recall | of the keys that a query was allowed, how many are among as many with the largest scores; where the policy chooses keys by query |
| predicts | scores predicted (or bounded), over the scores that dense makes, and the width of the operands |
| speed | over dense on this CPU, the fastest of several rounds that take turns |
| simulated | time and energy on each modelled accelerator that has hardware for the policy, over dense there |
| setting | the policy as it ran |

Two controls do the same work and know nothing: `importance=random` drops tokens by chance, `importance=inverse` the most
important first. A policy **earns its cost** where it is at least 5 % faster than dense on this CPU, loses at most one point
(a decoder: 0.05 nats a token) by the upper bound, and drifts less than chance does. All else is said as it is. The
verdicts hold for these small models, these short texts and this CPU; an accelerator's are in its own column.

)";
}

std::string ComparisonSection(const Comparison& comparison) {
  std::string out = SectionHeading(comparison);
  out += fmt::format("\n{} {}; {}.\n", comparison.examples,
                     comparison.decoder ? "tokens scored" : "examples", comparison.device);
  for (const double target : comparison.targets) {
    out += fmt::format("\n### {}: {}\n\n", comparison.model, TargetHeading(target));
    out += MarkdownRow(kHeading);
    out += MarkdownRow(Row(kHeading.size(), "---"));
    for (const ComparedPolicy* policy : At(comparison, target)) {
      Row row = RowOf(comparison, *policy);
      if (policy->measured()) row.back() = fmt::format("`{}`", row.back());
      out += MarkdownRow(row);
    }
    out += "\n";
    for (const std::string& verdict : Verdicts(comparison, target)) {
      out += fmt::format("- {}\n", verdict);
    }
  }
  return out;
}

std::string WithSection(std::string_view page, const Comparison& comparison) {
  // The parts of all models, each from its heading to the next.
  std::vector<std::string> sections;
  const auto heading_from = [&](size_t from) {
    const size_t found = page.find("\n## ", from);
    return found == page.npos ? page.size() : found + 1;
  };
  for (size_t begin = heading_from(0); begin < page.size();) {
    const size_t end = heading_from(begin);
    std::string section(page.substr(begin, end - begin));
    while (section.ends_with('\n')) section.pop_back();
    sections.push_back(section + "\n");
    begin = end;
  }
  const std::string heading = fmt::format("## {} on ", comparison.model);
  const auto earlier = std::ranges::find_if(
      sections, [&](const std::string& section) { return section.starts_with(heading); });
  if (earlier != sections.end()) {
    *earlier = ComparisonSection(comparison);
  } else {
    sections.push_back(ComparisonSection(comparison));
  }
  return fmt::format("{}{}", ComparisonIntro(), fmt::join(sections, "\n"));
}

absl::StatusOr<std::string> ComparisonPlotScript(const Comparison& comparison,
                                                 const std::string& path) {
  THRESHER_ASSIGN_OR_RETURN(std::string script, PlotTerminal(path, 900, 600));
  std::string plots;
  for (size_t t = 0; t < comparison.targets.size(); ++t) {
    script += fmt::format("$target{} << EOD\n", t);
    for (const ComparedPolicy* policy : At(comparison, comparison.targets[t])) {
      if (policy->target == 0 || !policy->measured() || !(policy->drift > 0)) continue;
      script += fmt::format("{} {} \"{}\"\n", policy->speedup, policy->drift, policy->name);
    }
    script += "EOD\n";
    plots += fmt::format(
        "{}$target{} using 1:2:3 with labels point pointtype 7 linetype {} textcolor linetype {} "
        "left offset char 1,0 title {}",
        t == 0 ? "" : ", ", t, t + 1, t + 1, Quoted(TargetHeading(comparison.targets[t])));
  }
  script += fmt::format(
      "set title {}\nset xlabel 'speed over dense'\nset ylabel 'drift from dense'\nset logscale "
      "y\nset format y '%g'\nset grid\nset key outside bottom center horizontal\nset offsets "
      "graph 0, graph 0.2, 0, 0\n",
      Quoted(fmt::format("{} on {}", comparison.model, comparison.data)));
  return script + fmt::format("plot {}\nunset output\n", plots);
}

}  // namespace thresher::cli
