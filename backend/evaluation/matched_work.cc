#include "backend/evaluation/matched_work.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int kMostSteps = 12;  // Beside the two ends.

/// The number at a place of the way, 0 to 1.
double NumberAt(const PolicyKnob& knob, double place) {
  const double number = knob.logarithmic
                            ? std::exp(std::lerp(std::log(knob.least), std::log(knob.most), place))
                            : std::lerp(knob.least, knob.most, place);
  return knob.integer ? std::round(number) : number;
}

}  // namespace

std::string WithNumber(std::string_view keys, double number) {
  const double magnitude = number == 0 ? 0 : std::floor(std::log10(std::abs(number)));
  std::string text = fmt::format("{:.{}f}", number, std::max(0, 3 - static_cast<int>(magnitude)));
  if (text.find('.') != std::string::npos) {
    text.resize(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  std::string out;
  for (const char c : keys) out += c == '*' ? text : std::string(1, c);
  return out;
}

absl::StatusOr<MatchedWork> MatchWork(const PolicyKnob& knob, double left, double tolerance,
                                      MeasureWork measure) {
  MatchedWork best;
  bool measured = false;
  const auto try_at = [&](double place) -> absl::StatusOr<double> {
    std::string keys = WithNumber(knob.keys, NumberAt(knob, place));
    if (measured && keys == best.keys) return best.left;
    THRESHER_ASSIGN_OR_RETURN(const double got, measure(keys));
    if (!measured || std::abs(got - left) < std::abs(best.left - left)) {
      best = {.keys = std::move(keys), .left = got, .reached = std::abs(got - left) <= tolerance};
    }
    measured = true;
    return got;
  };
  double low = 0.0, high = 1.0;  // Places: more is left at `low` than wanted, less at `high`.
  THRESHER_ASSIGN_OR_RETURN(const double least, try_at(high));
  if (best.reached || least > left) return best;
  for (int step = 0; step < kMostSteps && !best.reached; ++step) {
    const double middle = (low + high) / 2;
    if (knob.integer && std::abs(NumberAt(knob, low) - NumberAt(knob, high)) <= 1) break;
    THRESHER_ASSIGN_OR_RETURN(const double got, try_at(middle));
    (got > left ? low : high) = middle;
  }
  return best;
}

}  // namespace thresher
