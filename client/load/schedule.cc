#include "client/load/schedule.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <string>
#include <utility>

namespace thresher::load {
namespace {

constexpr absl::Duration kLongest = absl::Hours(24 * 7);

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

std::optional<absl::Duration> ParseTime(std::string_view text) {
  double seconds = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error == std::errc() && rest == text.data() + text.size()) {
    if (!std::isfinite(seconds)) return std::nullopt;
    return absl::Seconds(seconds);
  }
  absl::Duration time;
  if (!absl::ParseDuration(std::string(text), &time)) return std::nullopt;
  return time;
}

}  // namespace

RateSchedule::RateSchedule(std::vector<Stretch> stretches, std::optional<uint64_t> seed)
    : stretches_(std::move(stretches)) {
  if (!seed) return;
  random_.emplace(*seed, /*stream=*/1);
  next_ = random_->Exponential();
}

std::optional<absl::Duration> RateSchedule::Next() {
  for (; at_ < stretches_.size(); ++at_) {
    const Stretch& stretch = stretches_[at_];
    const double length = absl::ToDoubleSeconds(stretch.length);
    const double area = (stretch.from + stretch.to) / 2 * length;
    const double wanted = next_ - integral_;
    // Even arrivals of a whole number leave rounding errors at the stretch's end.
    if (wanted < area - 1e-9 * (1 + area)) {
      // from t + (to - from) / (2 length) t^2 = wanted, in the form without cancellation.
      const double slope = (stretch.to - stretch.from) / length;
      const double root =
          std::sqrt(std::max(stretch.from * stretch.from + 2 * slope * wanted, 0.0));
      const double time = wanted == 0 ? 0 : 2 * wanted / (stretch.from + root);
      next_ += random_ ? random_->Exponential() : 1;
      return absl::Seconds(begin_ + time);
    }
    begin_ += length;
    integral_ += area;
  }
  return std::nullopt;
}

absl::StatusOr<std::vector<absl::Duration>> ParseTimes(std::string_view text) {
  std::vector<absl::Duration> times;
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    const std::string_view line = Trim(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.empty() || line.front() == '#') continue;
    const auto refuse = [&](std::string_view why) {
      std::string shown;
      for (const char c : line.substr(0, 40)) shown += c >= 0x20 && c < 0x7F ? c : '?';
      return absl::InvalidArgumentError(fmt::format("line {}: '{}' {}", number, shown, why));
    };
    const auto time = ParseTime(line);
    if (!time) return refuse("is not a time such as 0.25 (seconds) or 250ms");
    if (*time < absl::ZeroDuration()) return refuse("is negative");
    if (*time > kLongest) return refuse("is more than a week");
    if (!times.empty() && *time < times.back()) return refuse("comes before the line above it");
    times.push_back(*time);
  }
  if (times.empty()) return absl::InvalidArgumentError("no time in it");
  return times;
}

}  // namespace thresher::load
