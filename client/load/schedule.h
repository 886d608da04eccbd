// When requests are due, in open loop: whatever the server does.
//
// All schedules but those from a file are one thing: a rate that changes linearly within each of
// some stretches of time. Even arrivals are due whenever the integral of the rate passes a whole
// number; Poisson arrivals whenever it passes the sum of exponential gaps of mean 1, which makes
// them a Poisson process of just that rate.
#ifndef THRESHER_CLIENT_LOAD_SCHEDULE_H_
#define THRESHER_CLIENT_LOAD_SCHEDULE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/load/random.h"

namespace thresher::load {

class Schedule {
 public:
  virtual ~Schedule() = default;
  /// When the next request is due, from the begin of the run; never before the one before it.
  /// Nothing: there is no further one.
  virtual std::optional<absl::Duration> Next() = 0;
};

/// A stretch of time whose rate goes from `from` to `to` in requests a second, neither negative.
struct Stretch {
  absl::Duration length;
  double from = 0;
  double to = 0;
};

class RateSchedule final : public Schedule {
 public:
  /// `seed`: Poisson arrivals; without one even arrivals, of which the first is due at once.
  RateSchedule(std::vector<Stretch> stretches, std::optional<uint64_t> seed);
  std::optional<absl::Duration> Next() override;

 private:
  const std::vector<Stretch> stretches_;
  std::optional<Random> random_;
  size_t at_ = 0;        // The stretch that the next arrival may be in.
  double begin_ = 0;     // Of that stretch, in seconds.
  double integral_ = 0;  // Of the rate, up to that stretch.
  double next_ = 0;      // The integral at which the next one is due.
};

class TimesSchedule final : public Schedule {
 public:
  explicit TimesSchedule(std::vector<absl::Duration> times) : times_(std::move(times)) {}
  std::optional<absl::Duration> Next() override {
    return next_ < times_.size() ? std::optional(times_[next_++]) : std::nullopt;
  }

 private:
  const std::vector<absl::Duration> times_;
  size_t next_ = 0;
};

/// Reads a schedule: a time on each line, in seconds ("0.25") or with a unit ("250ms"), from the
/// begin of the run and none before the line above it. Empty lines and those that begin with '#'
/// are left out. INVALID_ARGUMENT names the line.
absl::StatusOr<std::vector<absl::Duration>> ParseTimes(std::string_view text);

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_SCHEDULE_H_
