// Curves of quality, drawn by gnuplot (gnuplot.h).
#ifndef THRESHER_CLIENT_CLI_PLOT_H_
#define THRESHER_CLIENT_CLI_PLOT_H_

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/evaluation/perplexity.h"
#include "backend/evaluation/sweep.h"

namespace thresher::cli {

/// A line through the policies of one sweep; a policy asked for alone is a series of one.
template <typename Result>
struct SeriesOf {
  std::string name;
  std::vector<Result> points;
};
using Series = SeriesOf<PolicyResult>;
using TextSeries = SeriesOf<PerplexityResult>;

/// Policies that one --sparsity asks for.
struct Sweep {
  std::string name;
  std::vector<std::string> policies;
};

/// The policies of all of them, each once.
std::vector<std::string> PoliciesIn(std::span<const Sweep> sweeps);

/// A line for each sweep, of results that hold each of its policies.
template <typename Result>
std::vector<SeriesOf<Result>> SeriesFrom(std::span<const Sweep> sweeps,
                                         const std::vector<Result>& results) {
  std::vector<SeriesOf<Result>> series;
  for (const Sweep& sweep : sweeps) {
    series.push_back({.name = sweep.name});
    for (const std::string& policy : sweep.policies) {
      series.back().points.push_back(*std::ranges::find(results, policy, &Result::sparsity));
    }
  }
  return series;
}

struct PlotOptions {
  std::string path;  // Ends in .svg or .png.
  std::string x;     // An axis; empty: speedup, of a decoder bytes.
  std::string title;
};

/// What can be drawn against: "speedup", "requests_per_second" (not of a decoder), the kinds of
/// keep ratios, "bytes".
std::vector<std::string> PlotAxes();

/// A result's place on that axis.
double AxisValue(const PolicyResult& result, std::string_view axis);

/// gnuplot's commands: the metric above and, where it was measured, the drift below, both against
/// the axis. INVALID_ARGUMENT for a path with another ending.
absl::StatusOr<std::string> PlotScript(const PolicyResult& dense, const std::vector<Series>& series,
                                       const PlotOptions& options);

/// A decoder's: perplexity above, what it lost to dense below. INVALID_ARGUMENT, too, for an axis
/// that a decoder has not.
absl::StatusOr<std::string> TextPlotScript(const PerplexityResult& dense,
                                           const std::vector<TextSeries>& series,
                                           const PlotOptions& options);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_PLOT_H_
