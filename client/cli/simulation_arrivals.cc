#include "client/cli/simulation_arrivals.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <memory>
#include <utility>

#include "backend/device/simulator/accelerator.h"
#include "backend/model/files.h"
#include "backend/scheduler/fleet.h"
#include "backend/tensor/status.h"
#include "client/load/latency_histogram.h"
#include "client/load/schedule.h"
#include "client/load/texts.h"

namespace thresher::cli {
namespace {

constexpr int64_t kMostRequests = 10'000'000;
constexpr size_t kMostFileBytes = size_t{256} << 20;
constexpr int64_t kLengthStep = 8;

absl::StatusOr<double> Number(std::string_view key, std::string_view text, double low,
                              double high) {
  double value = 0.0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size() || !(value >= low && value <= high)) {
    return InvalidArgument("{}: '{}' is not a number from {} to {}", key, text, low, high);
  }
  return value;
}

/// "poisson:rate=1000,seconds=10,seed=1", "constant:rate=1000,seconds=10", or a file of times.
absl::StatusOr<std::unique_ptr<load::Schedule>> ParseArrivals(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon);
  if (kind != "poisson" && kind != "constant") {
    THRESHER_ASSIGN_OR_RETURN(const std::string times, ReadFile(text, kMostFileBytes));
    auto parsed = load::ParseTimes(times);
    if (!parsed.ok()) return Annotate(parsed.status(), text);
    return std::make_unique<load::TimesSchedule>(*std::move(parsed));
  }
  double rate = 0.0, seconds = 10.0, seed = 1.0;
  std::string_view rest =
      colon == std::string::npos ? std::string_view() : std::string_view(text).substr(colon + 1);
  while (!rest.empty()) {
    const std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(part.size() + 1, rest.size()));
    const std::string_view key = part.substr(0, part.find('='));
    const std::string_view value =
        key.size() < part.size() ? part.substr(key.size() + 1) : std::string_view();
    if (key == "rate") {
      THRESHER_ASSIGN_OR_RETURN(rate, Number(key, value, 1e-3, 1e9));
    } else if (key == "seconds") {
      THRESHER_ASSIGN_OR_RETURN(seconds, Number(key, value, 1e-6, 1e6));
    } else if (key == "seed" && kind == "poisson") {
      THRESHER_ASSIGN_OR_RETURN(seed, Number(key, value, 0.0, 1e15));
    } else {
      return InvalidArgument("'{}' is none of rate, seconds{}", key,
                             kind == "poisson" ? " and seed" : "");
    }
  }
  if (rate == 0.0) return InvalidArgument("{}: rate=N, in requests a second, is missing", kind);
  if (rate * seconds > static_cast<double>(kMostRequests)) {
    return InvalidArgument("{} requests: more than {}", rate * seconds, kMostRequests);
  }
  return std::make_unique<load::RateSchedule>(
      std::vector<load::Stretch>{{absl::Seconds(seconds), rate, rate}},
      kind == "poisson" ? std::optional(static_cast<uint64_t>(seed)) : std::nullopt);
}

/// What one sequence alone costs, by length.
class Costs {
 public:
  struct Cost {
    double seconds = 0.0, joules = 0.0;
  };

  Costs(const SyntheticOptions& shape, std::unique_ptr<Accelerator> accelerator,
        bool attention_only)
      : shape_(shape),
        accelerator_(std::move(accelerator)),
        scope_{.attention_only = attention_only} {
    shape_.batch = 1;
    shape_.hardware.assign(accelerator_->policies().begin(), accelerator_->policies().end());
  }

  absl::StatusOr<Cost> Of(int64_t tokens) {
    shape_.tokens = std::max<int64_t>(1, (tokens + kLengthStep - 1) / kLengthStep * kLengthStep);
    if (const auto found = known_.find(shape_.tokens); found != known_.end()) return found->second;
    accelerator_->Reset();
    THRESHER_ASSIGN_OR_RETURN(const auto layers, SyntheticLayers::Create(shape_));
    Cost cost;
    while (const LayerRecord* const record = layers->Next()) {
      THRESHER_ASSIGN_OR_RETURN(const LayerCharge charge, accelerator_->Run(*record, scope_));
      cost.seconds += charge.total.seconds();
      cost.joules += charge.total.energy_joules();
    }
    return known_.emplace(shape_.tokens, cost).first->second;
  }

 private:
  SyntheticOptions shape_;
  const std::unique_ptr<Accelerator> accelerator_;
  const RunScope scope_;
  std::map<int64_t, Cost> known_;
};

FleetSummary Summarize(const FleetResult& result, std::span<const FleetRequest> requests,
                       const std::map<int32_t, Costs::Cost>& costs) {
  FleetSummary summary;
  summary.devices = static_cast<int32_t>(result.busy.size());
  summary.requests = static_cast<int64_t>(result.outcomes.size());
  summary.seconds = absl::ToDoubleSeconds(result.end);
  load::LatencyHistogram totals;
  absl::Duration queue;
  for (size_t i = 0; i < result.outcomes.size(); ++i) {
    const FleetOutcome& outcome = result.outcomes[i];
    if (outcome.status == absl::StatusCode::kDeadlineExceeded) ++summary.late;
    if (outcome.status == absl::StatusCode::kResourceExhausted) ++summary.refused;
    if (outcome.status != absl::StatusCode::kOk) continue;
    ++summary.answered;
    totals.Add(outcome.total);
    queue += outcome.queue;
    summary.batch_mean += outcome.batch_sequences;
    summary.energy_joules += costs.at(requests[i].tokens).joules;
  }
  summary.p50 = totals.Percentile(0.5);
  summary.p90 = totals.Percentile(0.9);
  summary.p99 = totals.Percentile(0.99);
  summary.p999 = totals.Percentile(0.999);
  summary.max = totals.max();
  summary.mean = totals.mean();
  if (summary.answered > 0) {
    summary.queue_mean = queue / summary.answered;
    summary.batch_mean /= static_cast<double>(summary.answered);
  }
  absl::Duration busy;
  for (const absl::Duration device : result.busy) busy += device;
  if (summary.seconds > 0.0) {
    summary.utilization = absl::ToDoubleSeconds(busy) / summary.seconds / summary.devices;
  }
  return summary;
}

std::string Milliseconds(absl::Duration time) {
  return fmt::format("{:.3f}", absl::ToDoubleMilliseconds(time));
}

}  // namespace

absl::StatusOr<std::vector<FleetSummary>> SimulateArrivals(
    const v1::Preset& preset, const SyntheticOptions& shape, const ArrivalFlags& flags,
    bool attention_only, const std::function<bool(double share)>& progress) {
  auto schedule = ParseArrivals(flags.arrivals);
  if (!schedule.ok()) return Annotate(schedule.status(), "--arrivals");
  auto lengths = load::Lengths::Parse(
      flags.lengths.empty() ? fmt::format("fixed:value={}", shape.tokens) : flags.lengths);
  if (!lengths.ok()) return Annotate(lengths.status(), "--lengths");
  THRESHER_ASSIGN_OR_RETURN(auto accelerator, CreateAccelerator(preset));
  Costs costs(shape, std::move(accelerator), attention_only);

  // All lengths are priced before the first request arrives: what can't be run is said now.
  constexpr uint64_t kLengthStream = 1;
  load::Random random(shape.seed, kLengthStream);
  std::vector<FleetRequest> requests;
  std::map<int32_t, Costs::Cost> known;
  while (const std::optional<absl::Duration> due = (*schedule)->Next()) {
    if (static_cast<int64_t>(requests.size()) == kMostRequests) {
      return InvalidArgument("--arrivals: more than {} requests", kMostRequests);
    }
    const auto tokens = static_cast<int32_t>(lengths->Draw(random));
    if (!known.contains(tokens)) {
      THRESHER_ASSIGN_OR_RETURN(known[tokens], costs.Of(tokens));
    }
    if (requests.size() % 1024 == 0 && !progress(0.0)) return absl::CancelledError("interrupted");
    requests.push_back({.arrival = *due, .tokens = tokens, .deadline = flags.deadline});
  }
  if (requests.empty()) return InvalidArgument("--arrivals: no request arrives");

  std::vector<FleetSummary> summaries;
  for (const int32_t devices : flags.devices) {
    FleetOptions options;
    options.devices = devices;
    options.scheduler.max_batch_cost = flags.max_batch_tokens;
    options.scheduler.max_queue = flags.max_queue;
    options.service = [&known](std::span<const int32_t> tokens) {
      double seconds = 0.0;
      for (const int32_t count : tokens) seconds += known.at(count).seconds;
      return absl::Seconds(seconds);
    };
    bool stopped = false;
    options.progress = [&](int64_t arrived) {
      const double share = static_cast<double>(arrived) / static_cast<double>(requests.size());
      stopped |= !progress((static_cast<double>(summaries.size()) + share) /
                           static_cast<double>(flags.devices.size()));
      return !stopped;
    };
    summaries.push_back(Summarize(RunFleet(requests, options), requests, known));
    if (stopped) return absl::CancelledError("interrupted");
  }
  return summaries;
}

Json ToJson(const FleetSummary& summary, const v1::Preset& preset) {
  const auto seconds = [](absl::Duration time) { return absl::ToDoubleSeconds(time); };
  return {
      {"preset", preset.name()},
      {"devices", summary.devices},
      {"requests", summary.requests},
      {"outcomes",
       {{"ok", summary.answered},
        {"resource_exhausted", summary.refused},
        {"deadline_exceeded", summary.late}}},
      {"seconds", summary.seconds},
      {"throughput",
       summary.seconds > 0.0 ? static_cast<double>(summary.answered) / summary.seconds : 0.0},
      {"latency",
       {{"p50", seconds(summary.p50)},
        {"p90", seconds(summary.p90)},
        {"p99", seconds(summary.p99)},
        {"p999", seconds(summary.p999)},
        {"max", seconds(summary.max)},
        {"mean", seconds(summary.mean)}}},
      {"queue_mean", seconds(summary.queue_mean)},
      {"batch_mean", summary.batch_mean},
      {"utilization", summary.utilization},
      {"energy_joules", summary.energy_joules},
      {"energy_joules_per_request",
       summary.answered > 0 ? summary.energy_joules / static_cast<double>(summary.answered) : 0.0}};
}

std::string ToTable(const std::vector<FleetSummary>& summaries) {
  std::vector<std::vector<std::string>> rows = {{"DEVICES", "ANSWERED", "REFUSED", "LATE",
                                                 "PER SECOND", "P50 ms", "P99 ms", "P99.9 ms",
                                                 "QUEUE ms", "BATCH", "BUSY", "mJ EACH"}};
  for (const FleetSummary& summary : summaries) {
    const auto answered = static_cast<double>(std::max<int64_t>(summary.answered, 1));
    rows.push_back({fmt::format("{}", summary.devices), fmt::format("{}", summary.answered),
                    fmt::format("{}", summary.refused), fmt::format("{}", summary.late),
                    fmt::format("{:.0f}", static_cast<double>(summary.answered) / summary.seconds),
                    Milliseconds(summary.p50), Milliseconds(summary.p99),
                    Milliseconds(summary.p999), Milliseconds(summary.queue_mean),
                    fmt::format("{:.1f}", summary.batch_mean),
                    fmt::format("{:.1f} %", 100.0 * summary.utilization),
                    fmt::format("{:.3f}", 1e3 * summary.energy_joules / answered)});
  }
  return Table(rows);
}

}  // namespace thresher::cli
