#include "client/load/bound.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <optional>

#include "client/load/early_stopping.h"

namespace thresher::load {
namespace {

/// "p99", "p99.9" or "p999".
std::optional<double> ParsePercentile(std::string_view text) {
  if (text.size() < 2 || text[0] != 'p') return std::nullopt;
  text.remove_prefix(1);
  if (text.find_first_not_of("0123456789.") != std::string_view::npos) return std::nullopt;
  double percent = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), percent);
  if (error != std::errc() || rest != text.data() + text.size()) return std::nullopt;
  // p999 is the usual way to write 99.9.
  if (text.find('.') == std::string_view::npos) {
    for (size_t digits = 2; digits < text.size(); ++digits) percent /= 10;
  }
  // Beyond that no run is long enough.
  if (!(percent > 0 && percent <= 99.999)) return std::nullopt;
  return percent / 100;
}

}  // namespace

absl::StatusOr<Bound> Bound::Parse(std::string_view text) {
  Bound bound;
  std::string_view rest = text;
  if (constexpr std::string_view kFirst = "first_token:"; rest.starts_with(kFirst)) {
    bound.of = Of::kFirstToken;
    rest.remove_prefix(kFirst.size());
  } else if (constexpr std::string_view kLatency = "latency:"; rest.starts_with(kLatency)) {
    rest.remove_prefix(kLatency.size());
  }
  const size_t equals = rest.find('=');
  const auto percentile = ParsePercentile(rest.substr(0, equals));
  if (!percentile || equals == std::string_view::npos ||
      !absl::ParseDuration(std::string(rest.substr(equals + 1)), &bound.limit) ||
      bound.limit <= absl::ZeroDuration() || bound.limit == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is no bound such as p99=50ms or first_token:p90=200ms", text));
  }
  bound.percentile = *percentile;
  return bound;
}

std::string PercentileName(double percentile) {
  // Rounds away what a division left: 0.999 * 100 is not 99.9.
  return fmt::format("p{}", std::round(percentile * 1e8) / 1e6);
}

Verdict Judge(const Bound& bound, int64_t queries, int64_t late) {
  Verdict verdict = {.queries = queries, .late = late};
  verdict.kept = queries > 0 && static_cast<double>(late) <=
                                    (1 - bound.percentile) * static_cast<double>(queries) + 1e-9;
  verdict.sure = late <= MostLate(queries, bound.percentile);
  verdict.queries_needed = QueriesNeeded(late, bound.percentile);
  return verdict;
}

}  // namespace thresher::load
