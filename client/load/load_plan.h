// From what was asked to the levels of load that are run one after another.
#ifndef THRESHER_CLIENT_LOAD_LOAD_PLAN_H_
#define THRESHER_CLIENT_LOAD_LOAD_PLAN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/load/bound.h"
#include "client/load/load_run.h"
#include "client/load/schedule.h"
#include "client/load/tally.h"

namespace thresher::load {

enum class Mode {
  kClosed,    // So many calls in flight.
  kConstant,  // Open loop: evenly spaced,
  kPoisson,   // at random,
  kSchedule,  // at given times,
  kRamp,      // at a rate that grows steadily,
  kStep,      // or in steps.
  kPeak,      // The highest Poisson rate that keeps the bound.
  // MLPerf LoadGen's scenarios.
  kSingleStream,  // The next query follows the last answer.
  kMultiStream,   // The same with eight samples in a query.
  kServer,        // Poisson arrivals; valid if the bound is kept.
  kOffline,       // All samples are there at the begin.
};

/// "closed", ..., "SingleStream", ...
std::string_view Name(Mode mode);
std::vector<std::string> ModeNames();
std::optional<Mode> ParseMode(std::string_view name);
bool IsOpenLoop(Mode mode);

/// "8", "1:8" (1, 2, 4, 8: each twice the one before) or "10:50:20" (10, 30, 50).
struct Range {
  double from = 0;
  double to = 0;
  double step = 0;  // 0: none was given.

  /// INVALID_ARGUMENT for what is no range of numbers from 0.001 to 1e9.
  static absl::StatusOr<Range> Parse(std::string_view text);
  bool single() const { return from == to; }
  /// At most kMostLevels, the last at most `to`.
  std::vector<double> Values() const;

  static constexpr size_t kMostLevels = 1000;
};

struct Plan {
  Mode mode = Mode::kClosed;
  std::optional<Range> concurrency;
  std::optional<Range> rate;
  std::vector<absl::Duration> times;  // Of kSchedule.
  std::optional<absl::Duration> duration;
  std::optional<absl::Duration> warmup;
  std::optional<int64_t> requests;  // Calls at most; of kOffline samples.
  std::optional<int> batch;
  bool even = false;  // Of kRamp and kStep: evenly spaced arrivals instead of Poisson ones.
  uint64_t seed = 1;
  std::optional<Bound> bound;
  int64_t max_in_flight = 8192;
  double precision = 0.05;  // Of kPeak.
};

/// INVALID_ARGUMENT for settings that contradict each other, or lack one that the mode needs; the
/// message names the flags.
absl::Status Check(const Plan& plan);

/// One level: what it is called and how much load it is. Of kPeak: none, they are searched for.
struct Level {
  std::string name;  // "concurrency 4", "100/s".
  std::optional<int64_t> concurrency;
  std::optional<double> rate;
};
std::vector<Level> LevelsOf(const Plan& plan);
/// A level of kPeak.
Level LevelOfRate(double rate);

int BatchOf(const Plan& plan);

/// Ready to run; the schedule outlives the run.
struct PreparedLevel {
  std::unique_ptr<Schedule> schedule;
  RunOptions options;
  /// A closed loop of one call for so long comes first, where the level has no warm-up of its own.
  absl::Duration separate_warmup;
};
PreparedLevel Prepare(const Plan& plan, const Level& level);

/// What MLPerf's definition makes of a run.
struct ScenarioResult {
  std::string metric;
  std::optional<double> value;
  std::string unit;
  bool valid = false;
  std::string why;  // Not valid.
};
std::optional<ScenarioResult> ScenarioOf(const Plan& plan, const Level& level,
                                         const RunResult& result);

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_LOAD_PLAN_H_
