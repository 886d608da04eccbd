#include "client/load/load_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "client/load/early_stopping.h"

namespace thresher::load {
namespace {

constexpr std::string_view kModes[] = {"closed",      "constant", "poisson", "schedule",
                                       "ramp",        "step",     "peak",    "SingleStream",
                                       "MultiStream", "Server",   "Offline"};
constexpr int64_t kOfflineSamples = 24'576;  // LoadGen's least.
constexpr int kMultiStreamSamples = 8;
constexpr double kFastest = 1e6;  // Requests a second.

absl::Status Refuse(const std::string& message) { return absl::InvalidArgumentError(message); }

bool TakesRate(Mode mode) {
  return mode == Mode::kConstant || mode == Mode::kPoisson || mode == Mode::kRamp ||
         mode == Mode::kStep || mode == Mode::kPeak || mode == Mode::kServer;
}

/// These end by themselves.
bool Endless(Mode mode) { return mode != Mode::kSchedule && mode != Mode::kOffline; }

absl::Duration DurationOf(const Plan& plan) {
  if (!Endless(plan.mode)) return absl::InfiniteDuration();
  if (plan.duration) return *plan.duration;
  // A count is enough, and a search has many runs.
  if (plan.requests) return absl::InfiniteDuration();
  return plan.mode == Mode::kPeak ? absl::Seconds(10) : absl::Seconds(30);
}

absl::Duration WarmupOf(const Plan& plan) {
  return plan.warmup.value_or(plan.mode == Mode::kPeak ? absl::Seconds(1) : absl::Seconds(5));
}

/// What a rate's stretches are where the level has no duration: longer than anybody waits.
absl::Duration Bounded(absl::Duration duration) { return std::min(duration, absl::Hours(24 * 7)); }

std::vector<Stretch> StretchesOf(const Plan& plan, double rate) {
  const absl::Duration duration = Bounded(DurationOf(plan));
  if (plan.mode == Mode::kRamp) {
    return {{WarmupOf(plan), plan.rate->from, plan.rate->from},
            {duration, plan.rate->from, plan.rate->to}};
  }
  if (plan.mode == Mode::kStep) {
    const std::vector<double> rates = plan.rate->Values();
    std::vector<Stretch> stretches = {{WarmupOf(plan), rates[0], rates[0]}};
    for (const double step : rates) {
      stretches.push_back({duration / static_cast<double>(rates.size()), step, step});
    }
    return stretches;
  }
  return {{WarmupOf(plan) + duration, rate, rate}};
}

}  // namespace

std::string_view Name(Mode mode) { return kModes[static_cast<int>(mode)]; }

std::vector<std::string> ModeNames() { return {std::begin(kModes), std::end(kModes)}; }

std::optional<Mode> ParseMode(std::string_view name) {
  const auto found = std::find(std::begin(kModes), std::end(kModes), name);
  if (found == std::end(kModes)) return std::nullopt;
  return static_cast<Mode>(found - std::begin(kModes));
}

bool IsOpenLoop(Mode mode) { return TakesRate(mode) || mode == Mode::kSchedule; }

absl::StatusOr<Range> Range::Parse(std::string_view text) {
  double numbers[3] = {0, 0, 0};
  int count = 0;
  for (std::string_view rest = text;; ++count) {
    const size_t colon = rest.find(':');
    const std::string_view part = rest.substr(0, colon);
    double number = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), number);
    if (count == 3 || error != std::errc() || end != part.data() + part.size() ||
        !(number >= 1e-3 && number <= 1e9)) {
      return Refuse(
          fmt::format("'{}' is not N, N:M or N:M:STEP of numbers from 0.001 to 1e9", text));
    }
    numbers[count] = number;
    if (colon == std::string_view::npos) break;
    rest.remove_prefix(colon + 1);
  }
  Range range = {numbers[0], count > 0 ? numbers[1] : numbers[0], numbers[2]};
  if (range.step > 0 && std::abs(range.to - range.from) / range.step >= kMostLevels) {
    return Refuse(fmt::format("'{}' has more than {} levels", text, kMostLevels));
  }
  return range;
}

std::vector<double> Range::Values() const {
  std::vector<double> values;
  if (step > 0) {
    const auto steps = static_cast<int64_t>((std::abs(to - from) + 1e-9 * step) / step);
    const double sign = to < from ? -1 : 1;
    for (int64_t i = 0; i <= steps; ++i)
      values.push_back(from + sign * step * static_cast<double>(i));
    return values;
  }
  for (double value = from; value < to; value *= 2) values.push_back(value);
  for (double value = from; value > to; value /= 2) values.push_back(value);
  values.push_back(to);
  return values;
}

absl::Status Check(const Plan& plan) {
  const std::string_view name = Name(plan.mode);
  if (plan.rate && !TakesRate(plan.mode)) {
    return Refuse(fmt::format(
        "--rate goes with --mode constant, poisson, ramp, step, peak or Server, not {}", name));
  }
  if (!plan.rate && TakesRate(plan.mode) && plan.mode != Mode::kPeak) {
    return Refuse(fmt::format("--mode {} needs --rate, in requests a second", name));
  }
  if (plan.rate && std::max(plan.rate->from, plan.rate->to) > kFastest) {
    return Refuse(fmt::format("--rate: more than {} a second", kFastest));
  }
  if (plan.concurrency && plan.mode != Mode::kClosed && plan.mode != Mode::kOffline) {
    return Refuse(fmt::format(
        "--concurrency goes with --mode closed or Offline, not {}{}", name,
        IsOpenLoop(plan.mode) ? "; --max-in-flight limits an open loop" : ", which has one call"));
  }
  if (plan.concurrency) {
    for (const double value : plan.concurrency->Values()) {
      if (value != std::floor(value) || value > 65'536) {
        return Refuse("--concurrency takes whole numbers from 1 to 65536");
      }
    }
    if (plan.mode == Mode::kOffline && !plan.concurrency->single()) {
      return Refuse("--mode Offline takes one --concurrency, not a range");
    }
  }
  if ((plan.mode == Mode::kSchedule) != !plan.times.empty()) {
    return Refuse(plan.times.empty() ? "--mode schedule needs --schedule FILE"
                                     : "--schedule goes with --mode schedule");
  }
  if (plan.mode == Mode::kRamp && (plan.rate->single() || plan.rate->step > 0)) {
    return Refuse("--mode ramp needs --rate FROM:TO");
  }
  if (plan.mode == Mode::kStep && (plan.rate->single() || plan.rate->step == 0)) {
    return Refuse("--mode step needs --rate FROM:TO:STEP");
  }
  if (plan.mode == Mode::kPeak && plan.rate &&
      (plan.rate->step > 0 || plan.rate->to < plan.rate->from)) {
    return Refuse("--mode peak takes --rate FROM[:TO]: where the search begins, and its limit");
  }
  if (plan.mode == Mode::kServer && !plan.rate->single()) {
    return Refuse("--mode Server takes one --rate; --mode peak searches for the highest");
  }
  if (!plan.bound && (plan.mode == Mode::kPeak || plan.mode == Mode::kServer)) {
    return Refuse(fmt::format("--mode {} needs --bound, such as p99=50ms", name));
  }
  if (plan.duration && !Endless(plan.mode)) {
    return Refuse(fmt::format("--duration: --mode {} ends by itself", name));
  }
  if (plan.requests && (plan.mode == Mode::kSchedule || plan.mode == Mode::kRamp ||
                        plan.mode == Mode::kStep || plan.mode == Mode::kPeak)) {
    return Refuse(fmt::format("--requests does not go with --mode {}", name));
  }
  if (plan.batch && *plan.batch > 1 && plan.mode == Mode::kSingleStream) {
    return Refuse("--batch: a query of SingleStream has one sample");
  }
  if (plan.batch && *plan.batch != kMultiStreamSamples && plan.mode == Mode::kMultiStream) {
    return Refuse("--batch: a query of MultiStream has 8 samples");
  }
  if (plan.even && plan.mode != Mode::kRamp && plan.mode != Mode::kStep) {
    return Refuse("--even goes with --mode ramp or step; --mode constant is even");
  }
  return absl::OkStatus();
}

Level LevelOfRate(double rate) { return {.name = fmt::format("{:.6g}/s", rate), .rate = rate}; }

std::vector<Level> LevelsOf(const Plan& plan) {
  std::vector<Level> levels;
  switch (plan.mode) {
    case Mode::kClosed:
      for (const double value : plan.concurrency.value_or(Range{1, 1}).Values()) {
        const auto concurrency = static_cast<int64_t>(value);
        levels.push_back(
            {.name = fmt::format("concurrency {}", concurrency), .concurrency = concurrency});
      }
      break;
    case Mode::kConstant:
    case Mode::kPoisson:
      for (const double rate : plan.rate->Values()) levels.push_back(LevelOfRate(rate));
      break;
    case Mode::kServer:
      levels.push_back(LevelOfRate(plan.rate->from));
      break;
    case Mode::kRamp:
    case Mode::kStep:
      levels.push_back({.name = fmt::format("{} {:.6g}/s to {:.6g}/s", Name(plan.mode),
                                            plan.rate->from, plan.rate->to)});
      break;
    case Mode::kSchedule:
    case Mode::kSingleStream:
    case Mode::kMultiStream:
    case Mode::kOffline:
      levels.push_back({.name = std::string(Name(plan.mode))});
      break;
    case Mode::kPeak:
      break;
  }
  return levels;
}

int BatchOf(const Plan& plan) {
  if (plan.mode == Mode::kMultiStream) return kMultiStreamSamples;
  return plan.batch.value_or(plan.mode == Mode::kOffline ? 32 : 1);
}

PreparedLevel Prepare(const Plan& plan, const Level& level) {
  PreparedLevel prepared;
  RunOptions& options = prepared.options;
  options.bound = plan.bound;
  options.duration = DurationOf(plan);
  options.concurrency = level.concurrency.value_or(1);
  if (plan.requests) options.max_calls = *plan.requests;
  if (options.duration < absl::InfiniteDuration()) {
    options.window = std::clamp(options.duration / 60, absl::Milliseconds(100), absl::Seconds(10));
  }
  if (Endless(plan.mode)) {
    options.warmup = WarmupOf(plan);
  } else {
    prepared.separate_warmup = WarmupOf(plan);
  }
  if (plan.mode == Mode::kOffline) {
    options.due_at_begin = true;
    options.concurrency =
        plan.concurrency ? static_cast<int64_t>(plan.concurrency->from) : int64_t{4};
    const int64_t samples = plan.requests.value_or(kOfflineSamples);
    options.max_calls = (samples + BatchOf(plan) - 1) / BatchOf(plan);
  }
  if (IsOpenLoop(plan.mode)) {
    options.concurrency = plan.max_in_flight;
    if (plan.mode == Mode::kSchedule) {
      prepared.schedule = std::make_unique<TimesSchedule>(plan.times);
    } else {
      const bool even = plan.even || plan.mode == Mode::kConstant;
      prepared.schedule =
          std::make_unique<RateSchedule>(StretchesOf(plan, level.rate.value_or(0)),
                                         even ? std::nullopt : std::optional(plan.seed));
    }
    options.schedule = prepared.schedule.get();
  }
  if (plan.mode == Mode::kPeak) {
    options.expected_calls = *level.rate * absl::ToDoubleSeconds(options.duration);
  }
  return prepared;
}

std::optional<ScenarioResult> ScenarioOf(const Plan& plan, const Level& level,
                                         const RunResult& run) {
  ScenarioResult result;
  const auto percentile = [&](double p, std::string metric) {
    result.metric = std::move(metric);
    result.unit = "s";
    const auto at_most = run.all.AtMost(p);
    if (at_most) {
      result.value = absl::ToDoubleSeconds(*at_most);
    } else {
      result.why = fmt::format("{} queries ended, early stopping needs {} and no more failures",
                               run.all.ended(), QueriesNeeded(1, p));
    }
    result.valid = at_most.has_value();
  };
  switch (plan.mode) {
    case Mode::kSingleStream:
      percentile(0.9, "p90 latency, early-stopping estimate");
      break;
    case Mode::kMultiStream:
      percentile(0.99, "p99 latency of a query, early-stopping estimate");
      break;
    case Mode::kServer:
      result.metric = "queries a second under the bound";
      result.unit = "1/s";
      result.value = *level.rate;
      result.valid = run.verdict && run.verdict->kept && run.verdict->sure;
      if (!result.valid && run.verdict) {
        result.why =
            run.verdict->kept
                ? fmt::format("{} of {} queries were late; to be sure that needs {} queries",
                              run.verdict->late, run.verdict->queries, run.verdict->queries_needed)
                : fmt::format("{} of {} queries were late", run.verdict->late,
                              run.verdict->queries);
      }
      break;
    case Mode::kOffline:
      result.metric = "samples a second";
      result.unit = "1/s";
      result.value = run.inputs_per_second;
      result.valid = run.all.ok() == run.due && run.all.inputs >= kOfflineSamples;
      if (!result.valid) {
        result.why = fmt::format("{} samples were answered, of at least {}", run.all.inputs,
                                 kOfflineSamples);
      }
      break;
    default:
      return std::nullopt;
  }
  if (run.interrupted) {
    result.valid = false;
    result.why = "interrupted";
  }
  return result;
}

}  // namespace thresher::load
